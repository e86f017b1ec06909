"""What one run may take from another, and whether a run is still the one it was started as."""

from typing import Any

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.run_names import quarantine_path
from pipelines.stage import Step
from schemas.arrow import canonical_json, hash_rows
from schemas.configuration import output_config
from schemas.errors import ForeignRunError


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
    """Into a fork, take every block whose key and prompts are the same there. Returns how many. Can be repeated after a
    kill: the entries of quarantined rows come before the block that they fail in."""
    if target.info.seed != source.info.seed:
        return 0
    old, new = resolve_chains(source, source_config), resolve_chains(target, target_config)
    entries: dict[int, list[tuple[str, int]]] = {}
    for stage, unit, row in source.quarantine_entries():
        entries.setdefault(unit, []).append((stage, row))
    copied = 0
    for subset in new:
        if subset not in old:
            continue
        same_units = {
            unit
            for unit in set(target.units(subset)).intersection(source.units(subset))
            if hash_rows(target.prompts(unit)) == hash_rows(source.prompts(unit))
        }
        for step in new[subset]:
            if not step.settled or all(step.key != s.key for s in old[subset]):
                break
            for unit in sorted(source.committed_units(step.name, step.key) & same_units):
                for stage, row in entries.get(unit, ()):
                    if stage == step.name:
                        _copy_entry(source, target, step, unit, row)
                target.storage.copy_from(source.storage, target.block_path(step.name, step.key, unit))
                copied += 1
    return copied


def _copy_entry(source: RunFolder, target: RunFolder, step: Step, unit: int, row: int) -> None:
    """An entry of this step's own key. One that does not read is left behind."""
    entry = source.quarantine_entry(step.name, unit, row)
    if entry is not None and entry.get("key") == step.key:
        target.write_checked(quarantine_path(step.name, unit, row), entry)


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
