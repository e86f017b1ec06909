"""Which way a chain of a search goes on from an image that fails something, learnt from the traces of other searches.

Two ways: the corrector draws again from the image (`correct`), or the generator draws the prompt afresh (`fresh`). What
a try does is one of a few states: what the image fails before, what the next one fails after. A table counts these
transitions, and from them follows for each failure how many images it takes on average until one fails nothing:

    left(s) = min over both ways w of left(s, w),  left(nothing) = 0
    left(s, fresh)   = 1 + sum over s' of P(s' | s, fresh)   * left(s')
    left(s, correct) = 1 + sum over s' of P(s' | s, correct) * min(left(s'), left(s))

The way with fewer images left is taken. This is not the way that is right most often in one try: a correction that
mends one of three failures for certain is a step on. (A chain keeps the better image of a correction, and leaves its
image for a fresh one; that tries of one image fail alike is not seen, a search's `patience` stands for that.)

P is counted, and where little was tried it leans on what is coarser: with n tries of which a share p went to s', and q
that share in the coarser count, P = (n p + `LEAN` q) / (n + `LEAN`), the mean of a Dirichlet posterior. A correction
depends on what is to be corrected, so it leans on the same failure in prompts of any size; a fresh drawing depends on
how much is asked for, so it leans on all prompts of that size; both then on all tries of the way.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from inference.model_store import shipped_path
from inference.requirements.atoms import AtomKind, failing, flaws
from schemas.checked_json import checked_record, parse_object
from schemas.errors import CorruptDataError, InputError
from schemas.named_file import MAX_TEXT_BYTES, read_file
from schemas.records import AtomValue, Candidate

Way = Literal["correct", "fresh"]
WAYS: tuple[Way, ...] = get_args(Way)
NOTHING, TWO, SEVERAL = "nothing", "two", "several"
FAILURES = (*(kind.value for kind in AtomKind), TWO, SEVERAL)
"""One thing of a kind, two of any kind, or three and more."""
STATES = (NOTHING, *FAILURES)
SIZES = ("1 or 2", "3 or 4", "5 or more")
"""How many atoms a prompt has."""
LEAN = 8.0
"""Tries that a coarser count is worth beside a finer one."""
_ROUNDS = 2000  # of sweeps over the states; more images than that are no answer anyway
_HOW = "`python -m pipelines routes --run RUN ... --out FILE` learns one from finished searches"


def failure_of(atoms: Sequence[AtomValue]) -> str:
    """What an image fails, as one of `STATES`: what takes one mend is one thing, however many atoms fail by it."""
    failed = flaws(atoms)
    if len(failed) == 1:
        return str(failed[0].kind)
    return NOTHING if not failed else TWO if len(failed) == 2 else SEVERAL


def size_of(atoms: Sequence[AtomValue]) -> str:
    """How much is asked for, as one of `SIZES`."""
    return SIZES[0] if len(atoms) <= 2 else SIZES[1] if len(atoms) <= 4 else SIZES[2]


@dataclass(frozen=True)
class Try:
    """One try. fails: before; after: of the next image; gain: atoms gained, the sum of its values less the sum
    before."""

    fails: str
    atoms: str
    way: Way
    after: str
    gain: float


@dataclass(frozen=True)
class Tries:
    """Tries that began and ended alike; gain: their mean."""

    fails: str
    atoms: str
    way: Way
    after: str
    number: int
    gain: float


@dataclass(frozen=True)
class LearntFrom:
    """One search that a table was learnt from: its folder's name, how many of its prompts counted, its models."""

    run: str
    prompts: int
    generator: str
    corrector: str
    critic: str


def tries_in(candidates: Sequence[Candidate]) -> Iterator[Try]:
    """All tries of one finished search; none where nobody checked its atoms.

    Every correction of an image that failed something is a try. A fresh drawing for it would have been, as well as any,
    the first image of another chain: of that nobody knew then, so nothing chose it. So for each failure that a chain
    showed, the first images of the others are tries. (First images of its own chain, and those drawn when a chain
    started afresh, are not: they are there because something failed.)
    """
    steps = {one.index: one.search for one in candidates if one.search is not None and one.search.atoms}
    for step in steps.values():
        before = None if step.parent is None else steps.get(step.parent)
        if before is not None and failing(before.atoms):
            yield _try(before.atoms, step.atoms, "correct")
    first = [step for step in steps.values() if step.round == 0]
    shown: set[tuple[int, str]] = set()
    for step in steps.values():
        failed = failure_of(step.atoms)
        if failed == NOTHING or (step.chain, failed) in shown:
            continue
        shown.add((step.chain, failed))
        yield from (_try(step.atoms, other.atoms, "fresh") for other in first if other.chain != step.chain)


def _try(before: Sequence[AtomValue], after: Sequence[AtomValue], way: Way) -> Try:
    gain = sum(atom.value for atom in after) - sum(atom.value for atom in before)
    return Try(failure_of(before), size_of(before), way, failure_of(after), gain)


@dataclass(frozen=True)
class RouteTable:
    """What became of both ways; see above."""

    tries: tuple[Tries, ...]
    learnt_from: tuple[LearntFrom, ...] = ()

    @classmethod
    def learnt(cls, tries: Iterable[Try], learnt_from: Sequence[LearntFrom] = ()) -> RouteTable:
        """From single tries. InputError where one of the ways was never tried: nobody knows then which is better."""
        numbers: Counter[tuple[str, str, Way, str]] = Counter()
        gains: defaultdict[tuple[str, str, Way, str], float] = defaultdict(float)
        for one in tries:
            key = (one.fails, one.atoms, one.way, one.after)
            numbers[key] += 1
            gains[key] += one.gain
        kept = sorted(numbers, key=lambda key: (SIZES.index(key[1]), FAILURES.index(key[0]), key[2], key[3]))
        table = cls(
            tuple(Tries(*key, numbers[key], round(gains[key] / numbers[key], 4)) for key in kept), tuple(learnt_from)
        )
        table.check("")
        return table

    def check(self, where: str) -> None:
        """InputError for words that this version does not know, and for a way without tries."""
        for one in self.tries:
            said = (one.fails in FAILURES, one.atoms in SIZES, one.after in STATES, one.number > 0)
            if not all(said):
                raise InputError(
                    f"{one} is no entry of a table of routes",
                    file=where or None,
                    field=("fails", "atoms", "after", "number")[said.index(False)],
                    expected=f"fails and after: {', '.join(STATES)}; atoms: {', '.join(SIZES)}",
                )
        for way, how in (("correct", "images that were corrected"), ("fresh", "two chains (--search.width 2)")):
            if not any(one.way == way for one in self.tries):
                raise InputError(
                    f"the way {way!r} was never tried on an image that fails something",
                    file=where or None,
                    expected=f"searches with {how}, whose atoms a verifier checked (--tools.verifier.kinds atoms)",
                )

    def way(self, atoms: Sequence[AtomValue]) -> Way:
        """How to go on from an image that fails some of its atoms; of equal ways the correction."""
        failed, size = failure_of(atoms), size_of(atoms)
        both = [self.images_left[failed, size, way] for way in WAYS]
        return "correct" if both[0] <= both[1] else "fresh"

    @cached_property
    def images_left(self) -> dict[tuple[str, str, str], float]:
        """By what fails, the prompt's size and the way: images until one fails nothing, on average."""
        found: dict[tuple[str, str, str], float] = {}
        for size in SIZES:
            shares = {(s, way): self.shares(s, size, way) for s in FAILURES for way in WAYS}
            left = dict.fromkeys(STATES, 0.0)
            by_way: dict[tuple[str, Way], float] = {}
            for _ in range(_ROUNDS):
                for s in FAILURES:
                    corrected, fresh = shares[s, "correct"], shares[s, "fresh"]
                    by_way[s, "fresh"] = 1 + sum(p * left[t] for t, p in fresh.items())
                    by_way[s, "correct"] = 1 + sum(p * min(left[t], left[s]) for t, p in corrected.items())
                then = {s: min(by_way[s, way] for way in WAYS) for s in FAILURES}
                moved = max(then[s] - left[s] for s in FAILURES)
                left |= then
                if moved < 1e-6:
                    break
            found |= {(s, size, way): value for (s, way), value in by_way.items()}
        return found

    def shares(self, fails: str, size: str, way: Way) -> dict[str, float]:
        """P: how likely an image is in each state after one try."""
        counts = self._counts
        coarse = counts[way, fails, None] if way == "correct" else counts[way, None, size]
        share = dict.fromkeys(STATES, 1 / len(STATES))
        for count, lean in ((counts[way, None, None], 1.0), (coarse, LEAN), (counts[way, fails, size], LEAN)):
            total = sum(count.values()) + lean
            share = {state: (count[state] + lean * share[state]) / total for state in STATES}
        return share

    @cached_property
    def _counts(self) -> dict[tuple[str, str | None, str | None], Counter[str]]:
        keys = [(way, s, size) for way in WAYS for s in (*FAILURES, None) for size in (*SIZES, None)]
        counts: dict[tuple[str, str | None, str | None], Counter[str]] = {key: Counter() for key in keys}
        for one in self.tries:
            for s in (one.fails, None):
                for size in (one.atoms, None):
                    counts[one.way, s, size][one.after] += one.number
        return counts

    def as_json(self) -> str:
        """Its file: an entry a line."""
        said = asdict(self)
        lists = [
            f'"{name}": [\n' + ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in said[name]) + "\n ]"
            for name in ("learnt_from", "tries")
        ]
        return "{\n " + ",\n ".join(lists) + "\n}\n"


def read_routes(name: str) -> str:
    """The text of a table: of a file, or one that ships with this project ("micro/routes"). InputError where there is
    none."""
    path = shipped_path(f"{name}.json", "") or Path(name).expanduser()
    if not path.exists():
        raise InputError(f"no table of routes {name!r}", file=str(path), field="--tools.routes", expected=_HOW)
    try:
        return read_file(path, MAX_TEXT_BYTES, _HOW).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is no UTF-8 text: {error}", file=str(path), expected=_HOW) from error


def load_routes(name: str) -> RouteTable:
    """The table of a name, every word of it checked. InputError."""
    try:
        said: dict[str, Any] = parse_object(read_routes(name).encode(), name)
        table = checked_record(RouteTable, said, name)
    except CorruptDataError as error:
        raise InputError(f"is no table of routes: {error}", file=name, expected=_HOW) from error
    table.check(name)
    return table
