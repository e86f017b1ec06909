"""What the trainers' commands share: a preset looked up first, then every field a flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from schemas.errors import InputError

T = TypeVar("T")


def parse_with_preset(
    arguments: type[T], argv: Sequence[str], command: str, presets: Mapping[str, Callable[[], T]]
) -> T:
    """Arguments whose defaults are the preset's that `--preset` names ("micro" without one). InputError."""
    name = "micro"
    for index, argument in enumerate(argv):
        if argument == "--preset":
            name = next(iter(argv[index + 1 : index + 2]), "")
        elif argument.startswith("--preset="):
            name = argument.partition("=")[2]
    if name not in presets:
        raise InputError(f"unknown preset {name!r}", field="--preset", expected=" or ".join(presets))
    parsed: Any = tyro.cli(arguments, args=list(argv), prog=f"python -m trainers {command}", default=presets[name]())
    return parsed
