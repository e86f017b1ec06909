"""What keeps a run folder in order: retry of quarantined rows, removal of blocks nobody refers to, forks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import PackShardsConfig
from pipelines.run_folder import RunFolder, quarantine_path
from pipelines.stage import Step
from schemas.arrow import canonical_json, hash_rows
from schemas.blocks import footer_of
from schemas.configuration import output_config
from schemas.errors import CorruptDataError, ForeignRunError
from schemas.shards import shard_name, sidecar_name


@dataclass(frozen=True)
class Removed:
    """What `gc` removed."""

    num_blocks: int
    num_images: int


def clear_quarantine(folder: RunFolder, config: JobConfig) -> list[int]:
    """Remove the blocks of every quarantined row's unit, from the stage that failed on, and the shards that hold them.

    Shards go first, then blocks, the last stage's first: whatever is left after a kill, `resume` makes whole. Entries
    go last, so that there is still something to retry. Returns the units to do again.
    """
    chains = resolve_chains(folder, config)
    entries = folder.quarantined()
    for entry in entries:
        unit, stage = int(entry["unit"]), entry["stage"]
        steps = chains[folder.segment_of(unit).subset]
        names = [step.name for step in steps]
        drop_shard_of(folder, config.pack, unit)
        for step in reversed(steps[names.index(stage) if stage in names else 0 :]):
            if step.settled:
                folder.delete_block(step.name, step.key, unit)
    for entry in entries:
        folder.storage.delete(quarantine_path(entry["stage"], entry["unit"], entry["row"]))
    return sorted({int(entry["unit"]) for entry in entries})


def drop_shard_of(folder: RunFolder, config: PackShardsConfig, unit: int) -> None:
    """Remove the shard a unit's pairs lie in, so that it is packed again."""
    index = unit // config.units_per_shard
    folder.storage.delete(f"shards/{sidecar_name(index)}")
    folder.storage.delete(f"shards/{shard_name(index)}")


def collect_garbage(folder: RunFolder, config: JobConfig, keep: Literal["all", "paired"]) -> Removed:
    """Remove blocks under keys the configuration does not refer to; with `paired`, also images that no pair uses."""
    chains = resolve_chains(folder, config)
    used = {(step.name, step.key) for steps in chains.values() for step in steps if step.settled}
    num_blocks = 0
    for stage in folder.storage.names("stages"):
        for key in folder.storage.names(f"stages/{stage}"):
            if (stage, key) not in used:
                num_blocks += len(folder.committed_units(stage, key))
                folder.storage.delete(f"stages/{stage}/{key}")
    num_images = 0
    if keep == "paired":
        for subset, steps in chains.items():
            for unit in folder.units(subset):
                num_images += _drop_unpaired_images(folder, steps, unit)
    return Removed(num_blocks, num_images)


def _drop_unpaired_images(folder: RunFolder, steps: Sequence[Step], unit: int) -> int:
    """Write a finished unit's image blocks again without the images that no shipped pair uses. Hashes stay as they are:
    they cover images by digest. A unit with rows in quarantine keeps its images: `retry` needs them."""
    last = steps[-1]
    try:
        _, final = folder.read_block(last.name, last.key, unit)
    except (FileNotFoundError, CorruptDataError):
        return 0
    if any(row.quarantine is not None for row in final):
        return 0
    paired = [{i for pair in row.shipped_pairs for i in (pair.good, pair.bad)} for row in final]
    dropped = 0
    for step in steps:
        if not step.link.stage.makes_images:
            continue
        try:
            footer, rows = folder.read_block(step.name, step.key, unit)
            rows = folder.with_images(rows, step.name, step.key, unit)
        except (FileNotFoundError, CorruptDataError):
            continue  # `resume --check-blocks` makes it again, with all its images
        before = sum(c.image is not None for row in rows for c in row.candidates)
        kept = [
            replace(
                row,
                candidates=tuple(c if c.index in wanted else replace(c, image=None) for c in row.candidates),
            )
            for row, wanted in zip(rows, paired, strict=True)
        ]
        after = sum(c.image is not None for row in kept for c in row.candidates)
        if after < before:
            rewritten = footer_of(step.name, step.key, unit, footer.input_hash, kept)
            folder.write_block(rewritten, kept, with_images=True)
            dropped += before - after
    return dropped


def differing_fields(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`name: old -> new` for every field in which two configurations (as plain data) differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted({*old, *new})
            for line in differing_fields(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        ]
    # As JSON, to which lists and tuples are the same at any depth.
    return [] if canonical_json(old) == canonical_json(new) else [f"{prefix}: {old!r} -> {new!r}"]


def copy_valid_blocks(source: RunFolder, source_config: JobConfig, target: RunFolder, target_config: JobConfig) -> int:
    """Into a fork, take every block whose key and prompts are the same there, with the quarantine entries of their
    rows. Returns how many blocks."""
    if target.info.seed != source.info.seed:
        return 0
    old, new = resolve_chains(source, source_config), resolve_chains(target, target_config)
    copied = 0
    for subset in new:
        if subset not in old:
            continue
        same_units = [
            unit
            for unit in set(target.units(subset)).intersection(source.units(subset))
            if hash_rows(target.prompts(unit)) == hash_rows(source.prompts(unit))
        ]
        for step in new[subset]:
            if not step.settled or all(step.key != s.key for s in old[subset]):
                break
            committed = source.committed_units(step.name, step.key)
            for unit in committed.intersection(same_units):
                target.storage.copy_from(source.storage, target.block_path(step.name, step.key, unit))
                copied += 1
    for entry in source.quarantined():
        if target.storage.size(target.block_path(entry["stage"], entry["key"], entry["unit"])) is not None:
            target.write_json(quarantine_path(entry["stage"], entry["unit"], entry["row"]), entry)
    return copied


def differing_configs(started_with: JobConfig, config: JobConfig) -> list[str]:
    """Fields in which a configuration differs from the one a run was started with, where that can change output."""
    return differing_fields(output_config(started_with, {}), output_config(config, {}))


def check_models(folder: RunFolder, digests: dict[str, str]) -> None:
    """ForeignRunError when a model is no longer the one the run was started with: its blocks would not belong
    together."""
    changed = [name for name, digest in folder.info.digests.items() if digests.get(name, digest) != digest]
    if changed:
        raise ForeignRunError(
            f"{folder.storage.uri}: the contents of {', '.join(changed)} are not those that this run was started with\n"
            f"  bring back the same, or start another run that keeps what is still valid: `run --fork`"
        )
