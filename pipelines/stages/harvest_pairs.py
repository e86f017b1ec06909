"""Take pairs out of a search's trace: an image that the verifier turned down, what was said of it, and a better one."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from inference.interfaces import rank_of
from inference.likeness.likeness import LikenessConfig
from inference.reflection_text import is_one_sentence
from inference.requirements.atoms import HOLDS, AtomKind, flaws
from pipelines.run_folder import RunFolder
from pipelines.stage import Workers
from pipelines.stages.draft_round import DraftRound
from pipelines.stages.makes_pairs import MakesPairs
from pipelines.stages.write_reflections import problem_of
from schemas.configuration import added_field, execution_field
from schemas.errors import WorkFailedError
from schemas.records import AtomValue, Candidate, Cost, Pair, PromptRow, Reason, Reflection, Rejection


@dataclass(frozen=True)
class HarvestPairsConfig:
    """Which images of a search make a pair. Scores are the verifier's: log-odds that an image is right."""

    max_bad: float = 0.0
    """The bad image scores at most this."""
    min_good: float = 0.0
    """The good image scores at least this."""
    min_gain: float = 2.0
    """And better than the bad one by at least this."""
    partner: Literal["corrected", "best", "near"] = "corrected"
    """The good image: what the corrector made of the bad one by the reflection, or the best of the whole search. near:
    what the corrector made of it, where one requirement was mended (with its colour and place, of what was missing) and
    all else holds or fails as before; the scores' thresholds are not looked at then, but `min_atom_gain`."""
    pairs_per_prompt: int = 2
    """The pairs that gained most."""
    min_atom_gain: float = added_field(0.5)
    """Partner near: by how much likelier the good image meets the one requirement than the bad one, in [0, 1]."""
    likeness: LikenessConfig | None = added_field(None)
    """What measures how alike the images of each pair are; none: nobody does."""
    search_run: str = execution_field("")
    """Where the search lies."""
    rounds: tuple[str, ...] = ()
    """Keys of its rounds, which say what is in it."""
    annotator: str = ""
    """Who wrote its reflections."""
    workers: Workers = execution_field(Workers())


class HarvestPairs(MakesPairs):
    """The flywheel: what a search found out trains the next corrector. The judge's verdicts are not looked at: blocks
    are read as they were before it."""

    name: ClassVar[str] = "harvest_pairs"
    version: ClassVar[int] = 1
    makes_images: ClassVar[bool] = True

    def load(self) -> None:
        super().load()
        self.search = RunFolder.open(self.config.search_run)
        self.unit_of = {row.prompt.prompt_id: unit for unit in self.search.units() for row in self.search.prompts(unit)}

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        units = dict.fromkeys(self.unit_of[row.prompt.prompt_id] for row in rows)
        traces = {trace.prompt.prompt_id: trace for unit in units for trace in self._traces(unit)}
        return [self._harvest(row, traces[row.prompt.prompt_id]) for row in rows]

    def _traces(self, unit: int) -> list[PromptRow]:
        """The searches of a unit with all their images."""
        try:
            _, rows = self.search.read_block(DraftRound.name, self.config.rounds[-1], unit)
            for key in self.config.rounds:
                rows = self.search.with_images(rows, DraftRound.name, key, unit)
        except FileNotFoundError as error:
            raise WorkFailedError(
                f"{self.config.search_run}: unit {unit} is not searched to its end\n"
                f"  `python -m pipelines resume --run {self.config.search_run}`, then harvest again"
            ) from error
        return rows

    def _harvest(self, row: PromptRow, trace: PromptRow) -> PromptRow:
        row = replace(row, cost=Cost())
        if not trace.active:
            return replace(row, rejection=Rejection(self.name, Reason.NO_PAIR_LEFT, "its search was given up"))
        found = list(self._pairs(trace))
        if not found:
            return replace(
                row, rejection=Rejection(self.name, Reason.NO_PAIR_LEFT, "no reflection was followed by one")
            )
        kept = sorted(found, key=lambda pair: (-_gain(pair), pair.bad, pair.good))[: self.config.pairs_per_prompt]
        used = {index for pair in kept for index in (pair.good, pair.bad)}
        candidates = tuple(replace(c, search=None) for c in trace.candidates if c.index in used)
        row = replace(row, candidates=candidates)
        return replace(row, pairs=self.likened(row, [replace(pair, index=i) for i, pair in enumerate(kept)]))

    def _pairs(self, trace: PromptRow) -> Iterator[Pair]:
        """One for each image that was turned down and spoken of, and for each thing that was said of it."""
        config, by_index = self.config, {c.index: c for c in trace.candidates}
        best = max(trace.candidates, key=lambda c: (_score(c), -c.index))
        seen: set[tuple[int, int]] = set()
        for child in trace.candidates:
            step = child.search
            if step is None or step.parent is None or not step.reflection:
                continue
            if config.partner == "near":
                yield from self._near(by_index[step.parent], child)
                continue
            if problem_of(step.reflection):
                continue
            bad, good = by_index[step.parent], best if config.partner == "best" else child
            fits = -math.inf < _score(bad) <= config.max_bad and _score(good) >= config.min_good
            if not fits or _score(good) - _score(bad) < config.min_gain or (good.index, bad.index) in seen:
                continue
            seen.add((good.index, bad.index))
            reflection = Reflection(step.reflection, config.annotator)
            yield Pair(0, good.index, bad.index, self.name, reflection, good_score=_score(good), bad_score=_score(bad))

    def _near(self, bad: Candidate, good: Candidate) -> Iterator[Pair]:
        """The pair of an image and what was made of it, where one flaw was mended and nothing else changed sides.
        What is said of it is how that one is mended, or else all that the corrector was told, where that is a sentence
        alone."""
        before, after = (_atoms(one) for one in (bad, good))
        mended = mended_flaw(before, after)
        if mended is None or after[before.index(mended)].value - mended.value < self.config.min_atom_gain:
            return
        said, told = mended.mend, (good.search and good.search.reflection) or ""
        is_rule = bool(said) and mended.kind != AtomKind.QUESTION
        text = said or (told if is_one_sentence(told) else "")
        if text and not problem_of(text) and _score(good) > _score(bad) > -math.inf:
            reflection = Reflection(text, "rule" if is_rule else self.config.annotator)
            yield Pair(0, good.index, bad.index, self.name, reflection, good_score=_score(good), bad_score=_score(bad))


def mended_flaw(before: Sequence[AtomValue], after: Sequence[AtomValue]) -> AtomValue | None:
    """The one flaw of an image that the next one has not, where all else holds or fails as before; None where they are
    not near in this way. What was missing brings its colour and place: that is one flaw, if one mend is known of."""
    if len(before) != len(after):
        return None
    changed = [(old, new) for old, new in zip(before, after, strict=True) if (old.value < HOLDS) != (new.value < HOLDS)]
    mended = flaws([old for old, _ in changed])
    return mended[0] if len(mended) == 1 and all(old.value < HOLDS for old, _ in changed) else None


def _atoms(candidate: Candidate) -> tuple[AtomValue, ...]:
    return candidate.search.atoms if candidate.search else ()


def _score(candidate: Candidate) -> float:
    return rank_of(candidate.search.score) if candidate.search else float("-inf")


def _gain(pair: Pair) -> float:
    return (pair.good_score or 0.0) - (pair.bad_score or 0.0)
