"""Which training a checkpoint is of: it goes on with the settings that it was started with, or not at all."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError

MAY_CHANGE = {
    "out",
    "bf16",
    "loop.steps",
    "loop.micro_batch",
    "loop.export",
    "loop.evaluate_every",
    "loop.checkpoint_every",
    "loop.keep_last",
    "loop.report_every",
    "loop.read_every",
    "loop.loader_workers",
    "model.device",
    "generator.batch_size",
    "num_evaluated",
    "num_written",
    "compile",
    "compiled_rows",
    "recompute",
    "encode.keep_on",
    "encode.batch_size",
    "encode.threads",
    "encode.cache",
}
"""Fields with which a training goes on with the same numbers, up to rounding: how long, how often, where, with how much
memory."""
MAX_NAMED = 3


def settings_of(config: Any) -> dict[str, Any]:
    """What decides a training's numbers: plain values by the names of their fields ("optimizer.learning_rate")."""
    found = {name: value for name, value in _fields(config).items() if name not in MAY_CHANGE}
    if "://" not in found["data"]:
        found["data"] = str(Path(found["data"]).resolve())
    return found


def check_same(settings: dict[str, Any], started_with: dict[str, Any], out: Path) -> None:
    """InputError that names the first fields in which a training differs from the one that `out`'s checkpoint is of."""
    differing = [n for n in {**started_with, **settings} if settings.get(n) != started_with.get(n)]
    if differing:
        shown = [f"{n} was {started_with.get(n)}, is {settings.get(n)}" for n in differing[:MAX_NAMED]]
        more = [f"{len(differing) - MAX_NAMED} more"] if len(differing) > MAX_NAMED else []
        raise InputError(
            f"{out} holds another training: {'; '.join(shown + more)}",
            field="--out",
            expected="another folder, or the settings that this one was started with; or remove the folder",
        )


def _fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Fields of nested configurations by their dotted names, without those that say how to compute."""
    found: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            found |= _fields(value, f"{name}.")
        elif field.metadata.get("role") != "execution":
            found[name] = value
    return found
