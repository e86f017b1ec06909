"""VLMs of single stages and roles: `--reflect.vlm.model X` is the run's VLM with another model, for that stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from inference.vlm.vlm import VlmConfig

T = TypeVar("T")
Path = tuple[str, ...]
RUNS: Path = ("vlm",)
"""Where the flags of the run's own VLM are: `--vlm.model`."""


def with_own_vlms(default: T, argv: Sequence[str]) -> T:
    """`default` with the VLM that `--vlm...` asks for in every place whose own flags are given (`--reflect.vlm.model`):
    these flags then change it there."""
    flags = [_flag_path(argument) for argument in argv if argument.startswith("--")]
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
    hints = get_type_hints(type(config), include_extras=True)
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


def goes_unnamed(hint: Any) -> bool:
    """Whether the flags of a field's configuration do without its name."""
    return any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))


def _flag_path(flag: str) -> Path:
    return tuple(flag[2:].partition("=")[0].replace("-", "_").split("."))


def _arguments_below(prefix: Path, argv: Sequence[str]) -> list[str]:
    """The flags under a path, without it, and their values."""
    found: list[str] = []
    taking = False
    for argument in argv:
        if argument.startswith("--"):
            path = _flag_path(argument)
            taking = len(path) > len(prefix) and path[: len(prefix)] == prefix
            argument = "--" + argument[2 + len(".".join(prefix)) + 1 :]
        if taking:
            found.append(argument)
    return found


def _at(config: Any, path: Path) -> VlmConfig | None:
    """The VLM whose flags have this path."""
    hints = get_type_hints(type(config), include_extras=True)
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
