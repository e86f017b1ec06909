"""Where a run's prompts come from: composed by rules, or read from a file. Read once, checked, numbered into
segments."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.jobs import DatasetConfig
from pipelines.run_folder import Segment
from schemas.errors import InputError
from schemas.records import PromptRecord, PromptRow, Subset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intake:
    """The rows of a run, subset after subset, and what is to be said about how they were got."""

    rows: tuple[PromptRow, ...]
    segments: tuple[Segment, ...]
    statistics: dict[str, Any]


def take_in(config: DatasetConfig) -> Intake:
    """Gather every subset's prompts. InputError (file, line, field) for the first thing that is wrong."""
    if config.num_prompts < 1:
        raise InputError(f"{config.num_prompts} prompts", field="--num-prompts", expected="at least 1")
    if config.unit_size < 1:
        raise InputError(f"units of {config.unit_size} prompts", field="--unit-size", expected="at least 1")
    rows: list[PromptRow] = []
    by_subset: dict[str, int] = {}
    statistics: dict[str, Any] = {}
    for subset in config.subsets:
        taken, statistics[subset] = _take_subset(config, subset)
        by_subset[subset] = len(taken)
        rows += taken
    return Intake(tuple(rows), lay_out(by_subset, config.unit_size), statistics)


def _take_subset(config: DatasetConfig, subset: str) -> tuple[list[PromptRow], dict[str, Any]]:
    if subset == Subset.EDITING:
        return _read_edits(config)
    file = config.prompts if subset == Subset.RULE else config.detailed_prompts
    if file is not None:
        return _read(config, subset, file)
    if subset == Subset.RULE:
        return _compose(config)
    if config.vocabulary != "micro":
        raise InputError(
            f"{subset} needs detailed prompts",
            field="--detailed-prompts",
            expected="a file of them (.txt, .jsonl, .parquet); only the micro world makes its own",
        )
    return _describe_micro_scenes(config, subset)


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


def _compose(config: DatasetConfig) -> tuple[list[PromptRow], dict[str, Any]]:
    from pipelines.prompts.compose_rules import compose_prompts
    from pipelines.prompts.overlap import BenchmarkOverlap
    from pipelines.prompts.vocabulary import load_vocabulary

    overlap = (
        BenchmarkOverlap.from_metadata(config.benchmark_metadata)
        if config.benchmark_metadata
        else BenchmarkOverlap.shipped()
    )
    vocabulary = load_vocabulary(config.vocabulary)
    reserved = reserved_by_the_micro_world if config.closed_vocabulary else None
    composed = compose_prompts(vocabulary, config.num_prompts, config.seed, overlap, reserved=reserved)
    statistics = {
        "source": f"composed from vocabulary {config.vocabulary!r}",
        "num_prompts": len(composed.prompts),
        "removed_same_text_as_benchmark": composed.num_removed_as_overlap_by_text,
        "removed_same_composition_as_benchmark": composed.num_removed_by_composition,
        "removed_reserved_for_micro_benchmarks": composed.num_removed_as_reserved,
    }
    return [PromptRow(prompt) for prompt in composed.prompts], statistics


def _describe_micro_scenes(config: DatasetConfig, subset: str) -> tuple[list[PromptRow], dict[str, Any]]:
    """Long captions of random scenes, no text twice."""
    import numpy as np

    from inference.micro.long_captions import sample_long_caption

    rng = np.random.default_rng([config.seed, 92, list(Subset).index(Subset(subset))])
    texts: dict[str, None] = {}
    while len(texts) < config.num_prompts:
        texts[sample_long_caption(rng)[0]] = None
    rows = [PromptRow(PromptRecord(f"{subset}-{n:06d}", text, subset)) for n, text in enumerate(texts)]
    return rows, {"source": "long captions of the micro world", "num_prompts": len(rows)}


def _read_edits(config: DatasetConfig) -> tuple[list[PromptRow], dict[str, Any]]:
    from pipelines.prompts.edit_files import EditIntake, iterate_edits, iterate_micro_edits

    counts = EditIntake()
    if config.edits is None:
        if config.vocabulary != "micro":
            raise InputError(
                "editing needs a dataset of edits",
                field="--edits",
                expected="a .parquet or .tar file in OmniEdit's form",
            )
        found = iterate_micro_edits(config.seed, config.edit_quality, counts)
    else:
        found = iterate_edits(Path(config.edits), config.edit_quality, counts, config.skip_bad_rows)
    rows = list(islice(found, config.num_prompts))
    if not rows:
        raise InputError(
            f"no triplet of {counts.num_rows} is good enough",
            file=config.edits,
            field="--edit-quality",
            expected="some",
        )
    statistics = {
        "source": config.edits or "edits of the micro world",
        "num_prompts": len(rows),
        "rows_read": counts.num_rows,
        "below_quality": counts.num_below_quality,
    }
    return rows, statistics


def _read(config: DatasetConfig, subset: str, file: str) -> tuple[list[PromptRow], dict[str, Any]]:
    from pipelines.prompts.read_prompts import read_prompts
    from pipelines.prompts.vocabulary import load_vocabulary

    vocabulary = load_vocabulary(config.vocabulary)
    classes = vocabulary.class_names if config.closed_vocabulary else None
    colors = frozenset(vocabulary.colors) if config.closed_vocabulary else None
    rows: list[PromptRow] = []
    num_left = 0
    for row in read_prompts(file, subset, classes, skip_bad_rows=config.skip_bad_rows, known_colors=colors):
        # The rest is read all the same: a bad row is found now, and nothing of the file goes unmentioned.
        if len(rows) < config.num_prompts:
            rows.append(row)
        else:
            num_left += 1
    if not rows:
        raise InputError("no prompts", file=file, expected="at least one row")
    if num_left:
        log.warning("%s: the first %d prompts are taken, %d are left (--num-prompts)", file, len(rows), num_left)
    statistics = {
        "source": file,
        "num_prompts": len(rows),
        "rows_not_taken": num_left,
        "bad_rows": sum(row.rejection is not None for row in rows),
    }
    return rows, statistics


def reserved_by_the_micro_world(record: PromptRecord) -> bool:
    """True for compositions that the micro world keeps for its own benchmarks (and out of training)."""
    from inference.micro.captions import Caption, Clause, is_reserved

    clauses = tuple(
        Clause(
            c.class_name,
            c.count,
            c.color,
            (c.relation, c.relative_to) if c.relation and c.relative_to is not None else None,
        )
        for c in record.include
    )
    return is_reserved(Caption(record.tag or "", record.text, clauses))
