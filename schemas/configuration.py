"""What of a configuration changes output. Configurations are frozen dataclasses; most fields count. Two kinds do not:

- `model_field`: names a model (folder or hub id); its *content digest* counts, not where it lies;
- `execution_field`: says how to compute (device, number of workers), never what.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from schemas.arrow import canonical_json


def model_field(default: str) -> Any:
    """Dataclass field that names a model."""
    return dataclasses.field(default=default, metadata={"role": "model"})


def execution_field(default: Any) -> Any:
    """Dataclass field that cannot change output."""
    return dataclasses.field(default=default, metadata={"role": "execution"})


def model_names(config: Any) -> tuple[str, ...]:
    """Every model a configuration names, nested configurations included, in field order, without empty names."""
    names: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("role") == "model" and value:
            names.append(value)
        elif dataclasses.is_dataclass(value):
            names.extend(model_names(value))
    return tuple(dict.fromkeys(names))


def output_config(config: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    """The part of a configuration that changes output, as plain data, with models replaced by their digests."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        role = field.metadata.get("role")
        if role == "execution":
            continue
        if role == "model":
            plain[field.name] = digests.get(value, value)
        elif dataclasses.is_dataclass(value):
            plain[field.name] = output_config(value, digests)
        else:
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def content_key(*parts: Any) -> str:
    """16 hex digits of the SHA-256 of the parts' canonical JSON."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:16]


def stable_seed(*parts: Any) -> int:
    """An integer in [0, 2**63) that depends on the parts alone: seeds of noise and of random choices."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:8], "big") >> 1
