"""Which flags `--help` lists: those of the kinds of models that are chosen. Another kind's are listed once it is named:
`--filter.verifier.kinds rules --help`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from commands.own_vlms import goes_unnamed

T = TypeVar("T")
CHOICES = ("kind", "kinds")


def only_chosen_kinds(config: T, argv: Sequence[str], path: tuple[str, ...] = ()) -> T:
    """A configuration without those of other kinds than its own, or than the command line names."""
    here: Any = config
    hints = get_type_hints(type(here), include_extras=True)
    names = [field.name for field in fields(here)]
    choice = next((name for name in CHOICES if name in names), None)
    hidden: set[str] = set()
    if choice is not None:
        said = getattr(here, choice)
        kinds = _named(argv, (*path, choice)) or ((said,) if isinstance(said, str) else said)
        hidden = {kind.replace("-", "_") for kind in _literals(hints[choice]) if kind not in kinds}
    changed: dict[str, Any] = {}
    for name in names:
        value = getattr(here, name)
        if name in hidden:
            changed[name] = () if isinstance(value, tuple) else None
        elif is_dataclass(value):
            changed[name] = only_chosen_kinds(value, argv, path if goes_unnamed(hints[name]) else (*path, name))
    return replace(here, **changed)


def _literals(hint: Any) -> tuple[str, ...]:
    """The words that a field of a Literal, or of a tuple of them, may have."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) if part is not Ellipsis for word in _literals(part))


def _named(argv: Sequence[str], path: tuple[str, ...]) -> list[str]:
    """The values that a command line gives a flag."""
    flag, found, taking = "--" + ".".join(path).replace("_", "-"), [], False
    for argument in argv:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            taking = name == flag
            found += [value] if taking and value else []
        elif taking:
            found.append(argument)
    return found
