"""VLMs of single stages and roles: `--reflect.vlm.model X` is the run's VLM with another model, for that stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args

import tyro

from commands.flag_groups import Path, goes_unnamed, hints_of, path_of
from inference.vlm.vlm import VlmConfig

T = TypeVar("T")
RUNS: Path = ("vlm",)
"""Where the flags of the run's own VLM are: `--vlm.model`."""


def with_own_vlms(default: T, argv: Sequence[str]) -> T:
    """`default` with the VLM that `--vlm...` asks for in every place whose own flags are given (`--reflect.vlm.model`):
    these flags then change it there."""
    flags = [path_of(argument) for argument in argv if argument.startswith("--")]
    given = [path for path in flags if any(part.endswith("vlm") for part in path[1:-1])]
    if not given:
        return default
    places = [place for place in vlm_places(default) if any(path[: len(place[0])] == place[0] for path in given)]
    runs = _at(default, RUNS)
    if not places or runs is None:
        return default
    asked = tyro.cli(VlmConfig, args=_arguments_below(RUNS, argv), default=runs, prog="--vlm")
    for _, route in places:
        default = _with(default, route, asked)
    return default


def vlm_places(config: Any, named: Path = (), route: Path = ()) -> Iterator[tuple[Path, Path]]:
    """Every VLM that is none yet, and so the run's: its flags' path, and the way to it through the fields (they differ
    where a field's flags go by no name)."""
    hints = hints_of(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        path, way = named if goes_unnamed(hint) else (*named, field.name), (*route, field.name)
        if value is None and VlmConfig in get_args(hint):
            yield path, way
        elif is_dataclass(value):
            yield from vlm_places(value, path, way)
        for number, member in enumerate(value if isinstance(value, tuple) else ()):
            if is_dataclass(member):
                yield from vlm_places(member, (*path, str(number)), (*way, str(number)))


def _arguments_below(prefix: Path, argv: Sequence[str]) -> list[str]:
    """The flags under a path, without it, and their values."""
    found: list[str] = []
    taking = False
    for argument in argv:
        if argument.startswith("--"):
            path = path_of(argument)
            taking = len(path) > len(prefix) and path[: len(prefix)] == prefix
            argument = "--" + argument[2 + len(".".join(prefix)) + 1 :]
        if taking:
            found.append(argument)
    return found


def _at(config: Any, path: Path) -> VlmConfig | None:
    """The VLM whose flags have this path."""
    hints = hints_of(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if goes_unnamed(hints[field.name]) and is_dataclass(value) and (found := _at(value, path)) is not None:
            return found
        if (field.name,) == path and isinstance(value, VlmConfig):
            return value
    return None


def _with(config: Any, route: Path, vlm: VlmConfig) -> Any:
    first, *rest = route
    if isinstance(config, tuple):
        at = int(first)
        return (*config[:at], _with(config[at], tuple(rest), vlm), *config[at + 1 :])
    return replace(config, **{first: _with(getattr(config, first), tuple(rest), vlm) if rest else vlm})
