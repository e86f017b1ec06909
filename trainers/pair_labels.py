"""What shards say of their pairs besides images and texts: whether an annotator's verdict confirms which image is the
good one, and by how much a run's verifier found it better.

Read from the small members alone, for the trainers that choose pairs by them, and kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from schemas.errors import CorruptDataError
from schemas.open_storage import open_storage
from schemas.tar_members import tar_samples
from trainers.shard_index import ShardIndex, is_comparison, read_arrays, write_arrays

DENIED, CONFIRMED, NO_VERDICT = 0, 1, 2


@dataclass(frozen=True)
class PairLabels:
    """For each sample of an index: verdict int8 (n,), `CONFIRMED`, `DENIED` or `NO_VERDICT`; margin float64 (n,), NaN
    where there is none."""

    verdict: np.ndarray
    margin: np.ndarray


def read_labels(index: ShardIndex, cache: Path | None = None) -> PairLabels:
    """Labels of every sample. One whose members do not read has none: whoever reads the sample names it."""
    if index.comparisons is not None:  # whose result says which image is the good one
        return PairLabels(np.full(len(index), CONFIRMED, np.int8), np.full(len(index), math.nan))
    digest = hashlib.sha256(repr(index.digests).encode())
    for column in (index.shard, index.start, index.stop):
        digest.update(column.tobytes())
    cached = None if cache is None else cache / f"pair_labels_{digest.hexdigest()[:16]}.npz"
    kept = read_arrays(cached, ("verdict", "margin"))
    if kept is not None:
        return PairLabels(*kept)
    rows = [row for shard in np.unique(index.shard).tolist() for row in _labels_of(index, shard)]
    order = np.argsort([number for number, _, _ in rows])
    verdict = np.array([row[1] for row in rows], np.int8)[order]
    margin = np.array([row[2] for row in rows], np.float64)[order]
    if cached is not None:
        write_arrays(cached, verdict=verdict, margin=margin)
    return PairLabels(verdict, margin)


def _labels_of(index: ShardIndex, shard: int) -> Iterator[tuple[int, int, float]]:
    """(number in the index, verdict, margin) of each of a shard's samples."""
    with open_storage(index.uri).open(index.shards[shard]) as file:
        for number in np.flatnonzero(index.shard == shard).tolist():
            members = _json_members(file, int(index.start[number]), int(index.stop[number]))
            margin = margin_of(members.get("meta.json"))
            yield number, verdict_of(members.get("cot.json")), math.nan if margin is None else margin


def _json_members(file: BinaryIO, start: int, stop: int) -> dict[str, Any]:
    """`meta.json` and `cot.json` of the sample in a range of bytes, by name; empty where they do not read."""
    try:
        members = [member for member in next(tar_samples(file, "", start), []) if member.stop <= stop]
        said = {one.suffix: one.read(file, "") for one in members if one.suffix in ("meta.json", "cot.json")}
        return {name: json.loads(data) for name, data in said.items()}
    except (CorruptDataError, ValueError, RecursionError):
        return {}


def margin_of(meta: Any) -> float | None:
    """How much higher the run's verifier scored the good image, on its own scale, by the `meta.json` of a triplet; None
    where no verifier did (published shards, and runs that filter nothing)."""
    good, bad = (meta.get(name) if isinstance(meta, dict) else None for name in ("good_score", "bad_score"))
    if not isinstance(good, int | float) or not isinstance(bad, int | float):
        return None
    return good - bad if math.isfinite(good - bad) else None


def verdict_of(cot: Any) -> int:
    """Whether the verdict of a comparison, the `cot.json` of a triplet, is for the good image."""
    if not is_comparison(cot):
        return NO_VERDICT
    return CONFIRMED if cot["verdict"] == cot["good_side"] else DENIED
