"""What of a configuration changes output. Configurations are frozen dataclasses; most fields count as they are. Five
kinds do not:

- `model_field`: names a model (folder or hub id); its *content digest* counts, not where it lies;
- `template_field`: names a prompt template; its content counts too;
- `routes_field`: names a table of routes; so does its content;
- `execution_field`: says how to compute (device, number of workers), never what;
- `added_field`: came when there were runs without it; at its default it does not count, so that they keep their keys,
  nor does a kind of model that came so and is not the chosen one.

A model seam is a configuration with a field `kind` (a Literal) and one nested configuration for each kind, in a field
of that name, None where a preset has no such model (a new kind is an `added_field(None)`; the command line gives it its
configuration once it is named). Whoever uses it calls the seam's `open()` and never looks inside.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from schemas.arrow import canonical_json
from schemas.errors import InputError

T = TypeVar("T")


def model_field(default: str) -> Any:
    """Dataclass field that names a model."""
    return dataclasses.field(default=default, metadata={"role": "model"})


def template_field(default: str) -> Any:
    """Dataclass field that names a prompt template."""
    return dataclasses.field(default=default, metadata={"role": "template"})


def routes_field(default: str) -> Any:
    """Dataclass field that names a table of routes (`inference.routes`). There were runs without it: it does not count
    where none is named."""
    return dataclasses.field(default=default, metadata={"role": "routes", "added": True})


def execution_field(default: Any) -> Any:
    """Dataclass field that cannot change output."""
    return dataclasses.field(default=default, metadata={"role": "execution"})


def added_field(default: Any) -> Any:
    """Dataclass field that runs of earlier versions do not have. default: what they did without it."""
    return dataclasses.field(default=default, metadata={"added": True})


def resumable_field(default: Any) -> Any:
    """Dataclass field that says how long, how often, where or with how much memory a training computes: it may change
    when the training goes on from a checkpoint, with the same numbers up to rounding. (What it makes depends on it.)"""
    return dataclasses.field(default=default, metadata={"resumable": True})


def model_names(config: Any) -> tuple[str, ...]:
    """Every model a configuration names, nested configurations included, in field order, without empty names; and what
    those models' own files name, where the configuration has `implied_models()` that says so."""
    return _named(config, "model")


def template_names(config: Any) -> tuple[str, ...]:
    """Every prompt template a configuration names."""
    return _named(config, "template")


def routes_names(config: Any) -> tuple[str, ...]:
    """Every table of routes that a configuration names."""
    return _named(config, "routes")


def _named(config: Any, role: str) -> tuple[str, ...]:
    names: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("role") == role and value:
            names.append(value)
        for nested in _nested(value):
            names.extend(_named(nested, role))
    if role == "model" and hasattr(config, "implied_models"):
        names.extend(config.implied_models())
    return tuple(dict.fromkeys(names))


def nested_configs(config: Any) -> Iterator[Any]:
    """A configuration and all that are nested in it."""
    yield config
    for field in dataclasses.fields(config):
        for one in _nested(getattr(config, field.name)):
            yield from nested_configs(one)


def _nested(value: Any) -> Iterator[Any]:
    """The configurations that a field holds: one, several, or none."""
    for one in value if isinstance(value, tuple) else (value,):
        if dataclasses.is_dataclass(one):
            yield one


def output_config(config: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    """The part of a configuration that changes output, as plain data; models, templates and tables of routes as
    their digests."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        role = field.metadata.get("role")
        if role == "execution":
            continue
        if field.metadata.get("added") and (value == field.default or _is_other_kind(config, field.name)):
            continue
        if role in ("model", "template", "routes"):
            plain[field.name] = digests.get(value, value)
        elif dataclasses.is_dataclass(value):
            plain[field.name] = output_config(value, digests)
        else:
            plain[field.name] = [_plain(one, digests) for one in value] if isinstance(value, tuple) else value
    return plain


def _plain(value: Any, digests: Mapping[str, str]) -> Any:
    return output_config(value, digests) if dataclasses.is_dataclass(value) else value


def _is_other_kind(config: Any, name: str) -> bool:
    """Whether a field is that of a kind of model which is not chosen."""
    choice = next((one for one in ("kind", "kinds") if hasattr(config, one)), None)
    if choice is None:
        return False
    hint, said = get_type_hints(type(config))[choice], getattr(config, choice)
    named = [word for part in (hint, *get_args(hint)) for word in get_args(part) if isinstance(word, str)]
    words = {word.replace("-", "_") for word in named}
    chosen = {kind.replace("-", "_") for kind in ((said,) if isinstance(said, str) else said)}
    return name in words - chosen


@functools.cache
def kinds_of(seam: type) -> tuple[str, ...]:
    """Every kind that a seam has a configuration of; `none`, which is no model, has none."""
    return tuple(kind for kind in get_args(get_type_hints(seam)["kind"]) if kind != "none")


def chosen_kind(seam: Any) -> Any:
    """The nested configuration of a seam's kind. InputError, which names seam and kind, where the preset has no model
    of it."""
    nested = getattr(seam, seam.kind.replace("-", "_"))
    if nested is None:
        there = [kind for kind in kinds_of(type(seam)) if getattr(seam, kind.replace("-", "_")) is not None]
        name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(seam).__name__.removesuffix("Config"))
        raise InputError(
            f"the{name} {seam.kind!r} has no configuration here",
            field="kind",
            expected=" or ".join(there) or "a model",
        )
    return nested


def without_other_kinds(seam: T) -> T:
    """The seam with its own kind's configuration alone: the others' models are not needed, nor part of a run."""
    chosen_kind(seam)
    config: Any = seam
    others = [kind.replace("-", "_") for kind in kinds_of(type(seam)) if kind != config.kind]
    return dataclasses.replace(config, **dict.fromkeys(others))


def content_key(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts' canonical JSON."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def stable_seed(*parts: Any) -> int:
    """An integer in [0, 2**63) that depends on the parts alone: seeds of noise and of random choices."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:8], "big") >> 1
