"""Presets: functions that return a configuration. They differ in weights, sizes and hyperparameters, never in code."""

from collections.abc import Callable

from pipelines.jobs import DatasetConfig
from schemas.errors import InputError


def micro() -> DatasetConfig:
    """The shipped micro family: everything on two CPU cores."""
    return DatasetConfig()


PRESETS: dict[str, Callable[[], DatasetConfig]] = {"micro": micro}


def load_preset(name: str) -> DatasetConfig:
    """InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}", field="--preset", expected=" or ".join(PRESETS))
    return PRESETS[name]()
