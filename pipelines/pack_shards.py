"""Shards from committed blocks: a shard holds the pairs of a fixed range of units, so a late pair rewrites one
shard."""

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.run_folder import RunFolder
from pipelines.stage import Step
from schemas.configuration import content_key
from schemas.errors import CorruptDataError
from schemas.images import decode_image, encode_jpeg
from schemas.records import Candidate, Check, Pair, PromptRow, Reflection
from schemas.shards import (
    ShardSample,
    ShardSidecar,
    decode_shard,
    encode_shard,
    member_digests,
    shard_name,
    sidecar_name,
)

log = logging.getLogger(__name__)
VERSION = 2


@dataclass(frozen=True)
class PackShardsConfig:
    """What shards look like. jpeg_quality counts for `jpg` alone; chroma is never subsampled."""

    units_per_shard: int = 64
    """Units whose pairs make one shard."""
    image_format: Literal["jpg", "png"] = "jpg"
    """How images are packed; png keeps every pixel."""
    jpeg_quality: int = 95
    """1 to 100."""


def shard_ranges(folder: RunFolder, config: PackShardsConfig) -> list[range]:
    """The units of each shard."""
    size, end = config.units_per_shard, folder.num_units
    return [range(start, min(start + size, end)) for start in range(0, end, size)]


def shard_inputs(folder: RunFolder, chains: dict[str, list[Step]], config: PackShardsConfig, units: range) -> str:
    """Key of what a shard is made from: the last stages' keys, the units' sizes and the packing configuration."""
    keys = {subset: steps[-1].key for subset, steps in chains.items()}
    segments = [dataclasses.asdict(folder.segment_of(unit)) for unit in (units[0], units[-1])]
    return content_key(VERSION, dataclasses.asdict(config), keys, units.start, units.stop, segments)


def packed(folder: RunFolder, index: int, inputs: str) -> bool:
    """True when the shard on disk is whole (by size) and made from these inputs."""
    sidecar = folder.sidecar(index)
    if sidecar is None or sidecar.inputs != inputs:
        return False
    return sidecar.num_samples == 0 or folder.storage.size(f"shards/{shard_name(index)}") == sidecar.num_bytes


def pack_shard(
    folder: RunFolder, chains: dict[str, list[Step]], config: PackShardsConfig, index: int, units: range
) -> ShardSidecar:
    """Write one shard and its sidecar. A shard without pairs has a sidecar alone: readers stumble over empty tars."""
    samples: list[ShardSample] = []
    for unit in units:
        samples += unit_samples(folder, chains[folder.segment_of(unit).subset], config, unit)
    data = encode_shard(samples)
    sidecar = _sidecar(index, shard_inputs(folder, chains, config, units), units, samples, data)
    if samples:
        folder.storage.commit(f"shards/{sidecar.name}", data)
    else:
        folder.storage.delete(f"shards/{sidecar.name}")
    folder.write_json(f"shards/{sidecar_name(index)}", dataclasses.asdict(sidecar))
    return sidecar


def _sidecar(index: int, inputs: str, units: range, samples: Sequence[ShardSample], data: bytes) -> ShardSidecar:
    return ShardSidecar(
        name=shard_name(index),
        inputs=inputs,
        first_unit=units.start,
        end_unit=units.stop,
        num_samples=len(samples),
        num_samples_by_subset=dict(Counter(sample.subset for sample in samples)),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        members_sha256=member_digests(samples),
    )


def reads_as_packed(folder: RunFolder, index: int, inputs: str, units: range) -> bool:
    """True when the shard on disk holds, byte for byte, what its sidecar says."""
    sidecar = folder.sidecar(index)
    if sidecar is None:
        return False
    path = f"shards/{shard_name(index)}"
    try:
        data = folder.storage.read(path) if sidecar.num_samples else encode_shard([])
        return _sidecar(index, inputs, units, decode_shard(data, path), data) == sidecar
    except (FileNotFoundError, CorruptDataError):
        return False


def index_of(folder: RunFolder, num_shards: int) -> dict[str, Any]:
    """What `shards/index.json` holds: every shard with its counts."""
    sidecars = [s for i in range(num_shards) if (s := folder.sidecar(i)) is not None and s.num_samples]
    return {
        "num_samples": sum(s.num_samples for s in sidecars),
        "shards": [
            {
                "name": s.name,
                "num_samples": s.num_samples,
                "num_samples_by_subset": s.num_samples_by_subset,
                "num_bytes": s.num_bytes,
                "sha256": s.sha256,
            }
            for s in sidecars
        ],
    }


def write_index(folder: RunFolder, num_shards: int) -> None:
    """`shards/index.json`: what trainers open first."""
    folder.write_json("shards/index.json", index_of(folder, num_shards))


def unit_samples(folder: RunFolder, steps: Sequence[Step], config: PackShardsConfig, unit: int) -> list[ShardSample]:
    """Samples of one unit. CorruptDataError when a block or an image of it does not read."""
    last = steps[-1]
    _, rows = folder.read_block(last.name, last.key, unit)
    if not any(row.shipped_pairs for row in rows):
        return []
    for step in steps:
        if step.link.stage.makes_images:
            rows = folder.with_images(rows, step.name, step.key, unit)
    return [_sample(row, pair, unit, index, config) for index, row in enumerate(rows) for pair in row.shipped_pairs]


def sample_key(unit: int, row: int, pair: int) -> str:
    """`u000012-r03-p00`: unique in a run, sorts as the run goes."""
    return f"u{unit:06d}-r{row:03d}-p{pair:02d}"


def _sample(row: PromptRow, pair: Pair, unit: int, index: int, config: PackShardsConfig) -> ShardSample:
    by_index = {candidate.index: candidate for candidate in row.candidates}
    good, bad = by_index[pair.good], by_index[pair.bad]
    return ShardSample(
        key=sample_key(unit, index, pair.index),
        good_image=_encode(good, row, config),
        bad_image=_encode(bad, row, config),
        reflection=pair.reflection.text if pair.reflection else "",
        prompt=row.prompt.text,
        subset=row.prompt.subset,
        meta=_meta(row, pair, good, bad),
        image_format=config.image_format,
        cot=_cot(pair.reflection),
    )


def _cot(reflection: Reflection | None) -> dict[str, Any] | None:
    """The reasoning behind a reflection, where there was some: what reflector and verifier are trained on."""
    if reflection is None or reflection.verdict is None:
        return None
    return {
        "analysis": reflection.analysis,
        "good_side": reflection.good_side,
        "verdict": reflection.verdict,
        "instruction": reflection.text,
        "annotator": reflection.annotator,
    }


def _encode(candidate: Candidate, row: PromptRow, config: PackShardsConfig) -> bytes:
    where = f"{row.prompt.prompt_id} candidate {candidate.index}"
    if candidate.image is None:
        raise CorruptDataError(f"{where}: its image is in no block")
    if config.image_format == "png":
        return candidate.image
    return encode_jpeg(decode_image(candidate.image, where), config.jpeg_quality)


def _meta(row: PromptRow, pair: Pair, good: Candidate, bad: Candidate) -> dict[str, Any]:
    prompt = row.prompt
    reflection = pair.reflection
    scores = {"good_score": pair.good_score, "bad_score": pair.bad_score} if pair.good_score is not None else {}
    alike = {"likeness": pair.likeness, "likeness_by": pair.likeness_by} if pair.likeness is not None else {}
    condensed = {"condensed": row.condensed} if row.condensed is not None else {}
    return {
        "prompt_id": prompt.prompt_id,
        "tag": prompt.tag,
        "include": [dataclasses.asdict(clause) for clause in prompt.include],
        "exclude": [dataclasses.asdict(clause) for clause in prompt.exclude],
        "difficulty": row.difficulty,
        "difficulty_bin": row.difficulty_bin,
        "paired_by": pair.paired_by,
        "annotator": reflection.annotator if reflection else None,
        "good": _candidate_meta(good),
        "bad": _candidate_meta(bad),
        **scores,
        **alike,
        **condensed,
    }


def _candidate_meta(candidate: Candidate) -> dict[str, Any]:
    return {
        "index": candidate.index,
        "seed": candidate.seed,
        "text": candidate.text,
        "num_steps": candidate.num_steps,
        "size_px": [candidate.width_px, candidate.height_px],
        "image_sha256": candidate.image_sha256,
        "check": _check_meta(candidate.check) if candidate.check else None,
        "rewards": {reward.scorer: reward.value for reward in candidate.rewards},
    }


def _check_meta(check: Check) -> dict[str, Any]:
    return {
        "correct": check.correct,
        "score": round(check.score, 6),
        "reasons": list(check.reasons),
        "objects": [
            {
                "class": found.class_name,
                "color": found.color,
                "score": round(found.score, 6),
                "box": [round(v, 3) for v in found.box],
            }
            for found in check.objects
        ],
    }
