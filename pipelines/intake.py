"""Where a run's prompts come from: composed by rules, or read from a file. Read once, checked, numbered into
segments. Rows stream by: nothing here holds all of a file's prompts."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipelines.edit_contents import FILES, contents_of
from pipelines.jobs import DatasetConfig
from pipelines.prompts.worlds import World, world_of
from pipelines.run_folder import Segment
from schemas.errors import InputError
from schemas.records import PromptRecord, PromptRow, Subset

log = logging.getLogger(__name__)


@dataclass
class Intake:
    """The rows of a run, subset after subset; once they have streamed by, how many there were and how they were got."""

    config: DatasetConfig
    num_prompts: dict[str, int] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    def subset_rows(self, subset: str) -> Iterator[PromptRow]:
        """Rows of one subset. InputError (file, line, field) for the first thing that is wrong, or for none."""
        self.num_prompts[subset] = 0
        said: dict[str, Any] = {}
        for row in _rows_of(self.config, subset, said):
            self.num_prompts[subset] += 1
            yield row
        self.statistics[subset] = said | {"num_prompts": self.num_prompts[subset]}

    def rows(self, before_edits: Callable[[], None] = lambda: None) -> Iterator[PromptRow]:
        """Rows of every subset. before_edits: called once files of edits are found and before they are read, which may
        take hours."""
        from pipelines.prompts.edit_files import list_edit_files

        for subset in self.config.subsets:
            if subset == Subset.EDITING and self.config.edits is not None:
                list_edit_files(self.config.edits)
                before_edits()
            yield from self.subset_rows(subset)


def take_in(config: DatasetConfig) -> Intake:
    """An intake whose numbers make sense. InputError."""
    if config.num_prompts < 1:
        raise InputError(f"{config.num_prompts} prompts", field="--num-prompts", expected="at least 1")
    if config.unit_size < 1:
        raise InputError(f"units of {config.unit_size} prompts", field="--unit-size", expected="at least 1")
    return Intake(config)


def count_prompts(config: DatasetConfig) -> dict[str, int]:
    """How many prompts of each subset a run would take in: files are read as it reads them; of what is composed, or
    lies elsewhere, as many as are asked for. InputError."""
    intake, found = take_in(config), {}
    for subset in config.subsets:
        file = {Subset.RULE: config.prompts, Subset.EDITING: config.edits}.get(Subset(subset), config.detailed_prompts)
        is_read = file is not None and "://" not in file
        found[subset] = sum(1 for _ in intake.subset_rows(subset)) if is_read else config.num_prompts
    return found


def _rows_of(config: DatasetConfig, subset: str, said: dict[str, Any]) -> Iterator[PromptRow]:
    """said: what is to be said of the rows' source, filled in while they stream by."""
    if subset == Subset.EDITING:
        return _read_edits(config, said)
    file = config.prompts if subset == Subset.RULE else config.detailed_prompts
    if file is not None:
        return _read(config, subset, file, said)
    if subset == Subset.RULE:
        return _compose(config, said)
    world = world_of(config.vocabulary)
    if world is None:
        raise InputError(
            f"{subset} needs detailed prompts",
            field="--detailed-prompts",
            expected="a file of them (.txt, .jsonl, .parquet); only the micro world makes its own",
        )
    return _prompts_of(world, config, subset, said)


def lay_out(num_prompts: dict[str, int], unit_size: int, after: Sequence[Segment] = ()) -> tuple[Segment, ...]:
    """Segments for so many prompts of each subset, numbered on from segments that there are already."""
    segments: list[Segment] = []
    first_unit = max((s.first_unit + -(-s.num_prompts // unit_size) for s in after), default=0)
    first_prompt = max((s.first_prompt + s.num_prompts for s in after), default=0)
    for subset, count in num_prompts.items():
        segments.append(Segment(subset, first_unit, first_prompt, count))
        first_unit += -(-count // unit_size)
        first_prompt += count
    return tuple(segments)


def _compose(config: DatasetConfig, said: dict[str, Any]) -> Iterator[PromptRow]:
    from pipelines.prompts.compose_rules import compose_prompts
    from pipelines.prompts.overlap import BenchmarkOverlap
    from pipelines.prompts.vocabulary import load_vocabulary

    overlap = (
        BenchmarkOverlap.from_metadata(config.benchmark_metadata)
        if config.benchmark_metadata
        else BenchmarkOverlap.shipped()
    )
    vocabulary = load_vocabulary(config.vocabulary)
    world = world_of(config.vocabulary) if config.closed_vocabulary else None
    reserved = world.is_reserved if world else None
    composed = compose_prompts(vocabulary, config.num_prompts, config.seed, overlap, config.tag_weights, reserved)
    said |= {
        "source": f"composed from vocabulary {config.vocabulary!r}",
        "removed_same_text_as_benchmark": composed.num_removed_as_overlap_by_text,
        "removed_same_composition_as_benchmark": composed.num_removed_by_composition,
        "removed_reserved_for_micro_benchmarks": composed.num_removed_as_reserved,
    }
    yield from (PromptRow(prompt) for prompt in composed.prompts)


def _prompts_of(world: World, config: DatasetConfig, subset: str, said: dict[str, Any]) -> Iterator[PromptRow]:
    """Detailed prompts that a world makes, no text twice."""
    import numpy as np

    rng = np.random.default_rng([config.seed, 92, list(Subset).index(Subset(subset))])
    said["source"] = f"long captions of the {world.name} world"
    texts: set[str] = set()
    while len(texts) < config.num_prompts:
        text = world.long_prompt(rng)
        if text not in texts:
            yield PromptRow(PromptRecord(f"{subset}-{len(texts):06d}", text, subset))
            texts.add(text)


def _read_edits(config: DatasetConfig, said: dict[str, Any]) -> Iterator[PromptRow]:
    from pipelines.prompts.edit_files import EditIntake, iterate_edits, iterate_world_edits

    counts, source = EditIntake(), config.edits
    if config.edits is None:
        world = world_of(config.vocabulary)
        if world is None:
            raise InputError(
                "editing needs a dataset of edits",
                field="--edits",
                expected="files in OmniEdit's form: .parquet or .tar, a folder, a glob, hf://datasets/ORG/NAME, s3://",
            )
        source = f"edits of the {world.name} world"
        edits = iterate_world_edits(world, config.seed, config.edit_quality, counts)
    else:
        edits = iterate_edits(config.edits, config.edit_quality, counts, config.skip_bad_rows)
    number = 0
    for row in islice(edits, config.num_prompts):
        number += 1
        yield row
    if not number:
        raise InputError(
            f"none of {counts.num_rows} triplets is good enough",
            file=config.edits,
            field="--edit-quality",
            expected="lower limits",
        )
    said |= {
        "source": source,
        "rows_read": counts.num_rows,
        "below_quality": counts.num_below_quality,
        FILES: contents_of(counts.places),
    }


def _read(config: DatasetConfig, subset: str, file: str, said: dict[str, Any]) -> Iterator[PromptRow]:
    from pipelines.prompts.read_prompts import Known, read_prompts
    from pipelines.prompts.vocabulary import load_vocabulary

    known = Known.of(load_vocabulary(config.vocabulary), config.vocabulary, config.closed_vocabulary)
    num_taken = num_left = num_bad = 0
    rows = read_prompts(file, subset, known, skip_bad_rows=config.skip_bad_rows)
    for row in rows:
        # The rest is read all the same: a bad row is found now, and nothing of the file goes unmentioned.
        if num_taken < config.num_prompts:
            num_taken += 1
            num_bad += row.rejection is not None
            yield row
        else:
            num_left += 1
    if not num_taken:
        raise InputError("no prompts", file=file, expected="at least one row")
    if num_left:
        log.warning("%s: the first %d prompts are taken, %d are left (--num-prompts)", file, num_taken, num_left)
    said |= {"source": file, "rows_not_taken": num_left, "bad_rows": num_bad}
