"""Tries of both ways out of finished searches, for a table of routes (`inference.routes`).

What trains must not have seen a benchmark, and what chooses neither: a search of one is refused, as a harvest refuses
it, and prompts that repeat one's are left out. The judge's verdicts are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference.judges.intervals import Interval, mean_over_tags
from inference.routes import FAILURES, NOTHING, SIZES, WAYS, LearntFrom, RouteTable, Try, tries_in
from pipelines.harvest_job import harvest_prompts, harvested
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.stages.draft_round import DraftRound
from schemas.configuration import content_key, model_names, output_config
from schemas.errors import CorruptDataError, InputError
from schemas.records import PromptRow


@dataclass(frozen=True)
class Learnt:
    """What one search tells. tries: each with its prompt's text. prompts: of the run; left_out: those that are a
    benchmark's; unchecked: whose images have no atoms; unfinished: those with rounds to come, which count as far as
    they are. models: generator and corrector as one key."""

    source: LearntFrom
    tries: tuple[tuple[str, Try], ...]
    prompts: int
    left_out: int
    unchecked: int
    unfinished: int
    models: str


def learn_from(folder: RunFolder, config: SearchJobConfig) -> Learnt:
    """InputError for a search of a benchmark's prompts, one that the judge has a say in, one that corrects nothing, and
    one whose images have no atoms."""
    rounds, critic = harvested(folder, config)
    tools = config.tools.for_search(config.search, config.vlm)
    allowed = {
        row.prompt.prompt_id for row in harvest_prompts(folder, config.vocabulary, Counter()) if row.rejection is None
    }
    tries: list[tuple[str, Try]] = []
    counts: Counter[str] = Counter()
    for row, is_finished in _searched(folder, rounds):
        counts["prompts"] += 1
        checked = any(one.search and one.search.atoms for one in row.candidates)
        if row.prompt.prompt_id not in allowed:
            counts["left_out"] += 1
            continue
        counts["unfinished"] += not is_finished
        counts["unchecked"] += bool(row.candidates) and not checked
        counts["used"] += checked
        tries += [(row.prompt.text, one) for one in tries_in(row.candidates)]
    uri = folder.storage.uri
    if not counts["used"]:
        raise InputError(
            f"{uri}: nobody checked its images requirement by requirement, so nobody knows what they failed",
            field="--run",
            expected="a search with atoms among its verifiers (--tools.verifier.kinds atoms)",
        )
    parts = [part for part in (tools.generator, tools.corrector) if part is not None]
    generator, corrector = [next(iter(model_names(part)), "") for part in parts]
    return Learnt(
        source=LearntFrom(uri.rstrip("/").rpartition("/")[2], counts["used"], generator, corrector, critic),
        tries=tuple(tries),
        prompts=counts["prompts"],
        left_out=counts["left_out"],
        unchecked=counts["unchecked"],
        unfinished=counts["unfinished"],
        models=content_key([output_config(part, folder.info.digests) for part in parts]),
    )


def _searched(folder: RunFolder, rounds: Sequence[str]) -> Iterator[tuple[PromptRow, bool]]:
    """Every prompt with its images as far as it was searched, and whether that is to the end; none are decoded."""
    deepest = list(reversed(rounds))
    for unit in folder.units():
        rows, is_finished = folder.prompts(unit), False
        for key in deepest:
            try:
                rows = folder.read_block(DraftRound.name, key, unit)[1]
            except (FileNotFoundError, CorruptDataError):
                continue
            is_finished = key == deepest[0]
            break
        yield from ((row, is_finished and row.active) for row in rows)


def check_same_models(learnt: Sequence[Learnt]) -> None:
    """InputError for searches of different generators or correctors: a table is one corrector's."""
    first = learnt[0]
    for other in learnt[1:]:
        if other.models != first.models:
            said = [f"{one.source.run}: {one.source.generator}, {one.source.corrector}" for one in (first, other)]
            raise InputError(
                f"searches by different models, or with other settings of theirs\n  {said[0]}\n  {said[1]}",
                field="--run",
                expected="the same generator and corrector: which way is better depends on both",
            )


def routes_lines(table: RouteTable, learnt: Sequence[Learnt]) -> Iterator[str]:
    """For the terminal: of each failure and way how many tries, the share after which nothing failed (over texts), the
    atoms gained, how many images are left, and which way is taken."""
    found = [pair for one in learnt for pair in one.tries]
    head = f"  {'fails':<9} {'atoms':<9} {'way':<8} {'tries':>6}  {'then right [95 %]':<22} {'atoms gained':>12}"
    yield f"{head}  images left"
    for size in SIZES:
        for fails in FAILURES:
            mine = [(text, one) for text, one in found if (one.fails, one.atoms) == (fails, size)]
            if not mine:
                continue
            left = {way: table.images_left[fails, size, way] for way in WAYS}
            better = min(WAYS, key=lambda way: left[way])
            for way in WAYS:
                tried = [(text, one) for text, one in mine if one.way == way]
                texts = [text for text, _ in tried]
                right = _mean([float(one.after == NOTHING) for _, one in tried], texts)
                gain = f"{_mean([one.gain for _, one in tried], texts).value:+.2f}" if tried else "-"
                yield (
                    f"  {fails:<9} {size:<9} {way:<8} {len(tried):>6}  {str(right) if tried else '-':<22} {gain:>12}  "
                    f"{left[way]:.1f}{'  <- taken' if way == better else ''}"
                )


def _mean(values: Sequence[float], texts: Sequence[str]) -> Interval:
    return mean_over_tags(values, [""] * len(values), texts)
