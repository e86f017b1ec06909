"""Which training a checkpoint is of: it goes on with the settings that it was started with, or not at all.

Two kinds of fields are no such settings: `execution_field` and `resumable_field` (see `schemas.configuration`).
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.hub_storage import cached_dataset

MAX_NAMED = 3
ADDED: dict[str, Any] = {
    "batch.latents": "mode",
    "held_out_batch.latents": "mode",
    "batch.sizes": (),
    "held_out_batch.sizes": (),
    "generator.sizes": (),
    "generator.flux.shift": 0.0,
    "generator.flux.shared_noise": 0.0,
    "generator.flux.lora_strength": 1.0,
    "generator.diffusers.lora_strength": 1.0,
    "start_from": "",
    "model.right_share": 0.0,
    "model.full": False,
    "comparisons.image": "",
    "comparisons.prompt": "prompt",
    "comparisons.analysis": "analysis",
    "comparisons.instructions": "instructions",
    "comparisons.result": "result",
    "comparisons.subset": "general",
}
"""Settings that came later, and what trainings did before there were any: their checkpoints know none of them."""


def settings_of(config: Any) -> dict[str, Any]:
    """What decides a training's numbers: plain values by the names of their fields ("optimizer.learning_rate")."""
    settings = _fields(config)
    is_dataset = cached_dataset(settings["data"]) is not None and not Path(settings["data"]).exists()
    if "://" not in settings["data"] and not is_dataset:
        settings["data"] = str(Path(settings["data"]).resolve())
    return settings


def check_same(settings: dict[str, Any], started_with: dict[str, Any], out: Path) -> None:
    """InputError that names the first fields in which a training differs from the one that `out`'s checkpoint is of."""
    settings, started_with = _as_named_now(settings), _as_named_now(started_with)
    started_with = {name: value for name, value in ADDED.items() if name in settings} | started_with
    differing = [n for n in {**started_with, **settings} if settings.get(n) != started_with.get(n)]
    if differing:
        shown = [f"{n} was {started_with.get(n)}, is {settings.get(n)}" for n in differing[:MAX_NAMED]]
        more = [f"{len(differing) - MAX_NAMED} more"] if len(differing) > MAX_NAMED else []
        raise InputError(
            f"{out} holds another training: {'; '.join(shown + more)}",
            field="--out",
            expected="another folder, or the settings that this one was started with; or remove the folder",
        )


def _as_named_now(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that they have today. FLUX was the only generator once: its fields were `generator`'s own.
    Of several kinds of generators only the one that is used counts."""
    kind = settings.get("generator.kind", "flux")
    named: dict[str, Any] = {"generator.kind": kind}
    for name, value in settings.items():
        group, _, rest = name.partition(".")
        if group != "generator" or rest == "sizes":
            named[name] = value
        elif "." not in rest and rest != "kind":
            named[f"generator.flux.{rest}"] = value
        elif rest.startswith(f"{kind}."):
            named[name] = value
    return named


def _fields(config: Any, prefix: str = "") -> dict[str, Any]:
    """Fields of nested configurations by their dotted names, without those that say how to compute."""
    values: dict[str, Any] = {}
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            values |= _fields(value, f"{name}.")
        elif field.metadata.get("role") != "execution" and not field.metadata.get("resumable"):
            values[name] = value
    return values
