"""Which rows are in quarantine, and how they are done again. Blocks say it; the entries below `quarantine/` only keep
tracebacks, and may be missing, broken or strangers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import PackShardsConfig
from pipelines.run_folder import RunFolder
from pipelines.run_names import quarantine_path
from pipelines.stage import Step
from schemas.errors import CorruptDataError
from schemas.shards import shard_name, sidecar_name


@dataclass(frozen=True)
class QuarantinedRow:
    """row: its place in the unit. stage: which it failed in."""

    unit: int
    row: int
    prompt_id: str
    stage: str
    error: str


def quarantined_rows(folder: RunFolder, config: JobConfig) -> Iterator[QuarantinedRow]:
    """Every row in quarantine, of units that are under way too, unit by unit."""
    for subset, steps in resolve_chains(folder, config).items():
        for unit, committed in _failed_units(folder, steps, subset):
            last = committed[-1]
            try:
                _, rows = folder.read_block(last.name, last.key, unit)
            except (FileNotFoundError, CorruptDataError):
                continue  # `verify` names it
            for number, row in enumerate(rows):
                if row.quarantine is not None:
                    said = row.quarantine
                    yield QuarantinedRow(unit, number, row.prompt.prompt_id, said.stage, said.error)


def clear_quarantine(folder: RunFolder, config: JobConfig) -> list[int]:
    """Remove the blocks of every quarantined row's unit, from the stage that failed on, and the shards that hold them.

    Shards go first, then blocks, the last stage's first: whatever is left after a kill, `resume` makes whole, and the
    rows are still in quarantine. Entries go last. Returns the units to do again.
    """
    units: set[int] = set()
    for subset, steps in resolve_chains(folder, config).items():
        for unit, committed in _failed_units(folder, steps, subset):
            first = next(i for i, step in enumerate(committed) if _num_quarantined(folder, step, unit))
            drop_shard_of(folder, config.pack, unit)
            for step in reversed(committed[first:]):
                folder.delete_block(step.name, step.key, unit)
            units.add(unit)
    for stage, unit, row in folder.quarantine_entries():
        if unit in units:
            folder.storage.delete(quarantine_path(stage, unit, row))
    return sorted(units)


def drop_shard_of(folder: RunFolder, config: PackShardsConfig, unit: int) -> None:
    """Remove the shard a unit's pairs lie in, so that it is packed again."""
    index = unit // config.units_per_shard
    folder.storage.delete(f"shards/{sidecar_name(index)}")
    folder.storage.delete(f"shards/{shard_name(index)}")


def _failed_units(folder: RunFolder, steps: Sequence[Step], subset: str) -> Iterator[tuple[int, list[Step]]]:
    """Each unit whose last block has rows in quarantine, with the steps that have a block."""
    committed = [(step, folder.committed_units(step.name, step.key)) for step in steps if step.settled]
    for unit in folder.units(subset):
        there = [step for step, units in committed if unit in units]
        if there and _num_quarantined(folder, there[-1], unit):
            yield unit, there


def _num_quarantined(folder: RunFolder, step: Step, unit: int) -> int:
    try:
        return folder.read_footer(step.name, step.key, unit).num_quarantined
    except (FileNotFoundError, CorruptDataError):
        return 0
