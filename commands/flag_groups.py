"""The flags of a command, group by group. A group is a nested configuration, and its flags begin with its path:
`--generate.generator.flux.num-steps`. Only the groups that a command line names are laid out for tyro (there are
hundreds of flags, and each costs time); all others keep what the preset says. `--help` lists everyday flags, `--help
GROUP` those of one group, `--help-all` everything that is chosen."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from commands.metavars import hint_of

Path = tuple[str, ...]
CHOICES = ("kind", "kinds")
HELP = ("-h", "--help")
EVERYTHING = "--help-all"
_LAID_OUT: set[type] = set()  # classes that `laid_out` made
_AS_IT_IS = (tyro.conf.Suppress, tyro.conf.Fixed)
_KEPT = Annotated[Any, *_AS_IT_IS]


def take_help(argv: Sequence[str]) -> tuple[list[str], list[Path] | None]:
    """A command line without the words behind `--help`, and the groups that they ask for, (()) for everything; None
    where no help is asked for."""
    at = next((i for i, argument in enumerate(argv) if argument in (*HELP, EVERYTHING)), None)
    if at is None:
        return list(argv), None
    if argv[at] == EVERYTHING:
        return [*argv[:at], HELP[-1], *argv[at + 1 :]], [()]
    end = at + 1
    while end < len(argv) and not argv[end].startswith("-"):
        end += 1
    return [*argv[: at + 1], *argv[end:]], [path_of(word) for word in argv[at + 1 : end]]


def path_of(flag: str) -> Path:
    """("generate", "batch_size") of "--generate.batch-size=3"."""
    return tuple(flag.removeprefix("--").partition("=")[0].replace("-", "_").split("."))


def named_groups(argv: Sequence[str]) -> frozenset[Path]:
    """The groups that the flags of a command line lie in, and those around them."""
    paths = [path_of(argument)[:-1] for argument in argv if argument.startswith("--")]
    return frozenset(path[:n] for path in paths for n in range(1, len(path) + 1))


def with_named_kinds(
    config: Any, argv: Sequence[str], but: type | None = None, path: Path = (), flagged: bool = False
) -> Any:
    """A configuration in which every kind that a command line chooses, or has flags of, has its own; and as many
    members as are named where there may be any number (`--rewards.rewards.3.kind`). but: a class whose absence means
    something, and which stays absent; flagged: but where flags of its own are given. What help is asked for is named
    as well (`--help referee`)."""
    groups, asked = named_groups(argv), take_help(argv)[1] or ()
    hints = hints_of(type(config))
    chosen = {kind.replace("-", "_") for choice in CHOICES for kind in values_of(argv, (*path, choice))}
    changed: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        here = path if goes_unnamed(hints[one.name]) else (*path, one.name)
        is_asked = any(path[: len(here)] == here for path in asked)
        if value is None and (here in groups or one.name in chosen or is_asked):
            kind = _configuration_of(hints[one.name])
            stays = kind is but and not (flagged and here in groups)
            value = _by_default(kind) if kind is not None and not stays else None
        if isinstance(value, tuple) and (kind := _member_of(hints[one.name])) is not None:
            numbers = [int(group[len(here)]) for group in groups if group[:-1] == here and group[-1].isdigit()]
            value += tuple(kind() for _ in range(len(value), min(max(numbers, default=-1) + 1, len(value) + 16)))
            value = tuple(
                with_named_kinds(one, argv, but, (*here, str(number)), flagged) for number, one in enumerate(value)
            )
        elif is_dataclass(value):
            value = with_named_kinds(value, argv, but, here, flagged)
        if value is not getattr(config, one.name):
            changed[one.name] = value
    return replace(config, **changed) if changed else config


@dataclass(frozen=True)
class Layout:
    """Which flags are laid out for tyro. named: groups of which flags are given. asked: groups, by `--help`; of these
    all that is chosen, and of the others nothing. everyday: flags that an everyday page lists, beside those of the
    named groups; None: no such page is asked for."""

    named: frozenset[Path]
    asked: tuple[Path, ...] = ()
    everyday: frozenset[Path] | None = None

    def shows(self, flag: Path) -> bool:
        """Whether a flag is listed."""
        if self.everyday is not None:
            return flag in self.everyday or flag[:-1] in self.named
        return not self.asked or any(flag[: len(group)] == group for group in self.asked)

    def opens(self, path: Path, is_chosen: bool) -> bool:
        """Whether anything of a group is."""
        if self.everyday is not None and any(flag[: len(path)] == path for flag in self.everyday):
            return True
        if path in self.named or any(group[: len(path)] == path for group in self.asked):
            return True
        return is_chosen and bool(self.asked) and self.shows(path)


def required(kind: type) -> Any:
    """A configuration of its defaults, whose fields without one have to be given."""
    needs = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return kind(**dict.fromkeys(needs, tyro.MISSING))


def laid_out(config: Any, layout: Layout, path: Path = ()) -> tuple[type, Any]:
    """A type and its value for tyro: those of `config`, with the flags of the layout alone."""
    kind, hints = type(config), hints_of(type(config))
    unchosen = _unchosen(config)
    annotations: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for one in fields(config):
        value: Any = getattr(config, one.name)
        values[one.name] = value
        unnamed = goes_unnamed(hints[one.name])
        here = path if unnamed else (*path, one.name)
        extras = getattr(hints[one.name], "__metadata__", ())
        is_members = _is_members(value)
        if tyro.conf.Suppress in extras:
            continue
        if not (is_members or is_dataclass(value)):
            if not layout.shows(here):  # for help alone: what is required is then nothing
                # Of its own type: tyro remembers what it found for a type and a value, and takes 0 for False.
                is_required = value is tyro.MISSING
                annotations[one.name] = _KEPT if is_required else Annotated[hints[one.name], *_AS_IT_IS]
                values[one.name] = None if is_required else value
            elif (said := hint_of(one.name, hints[one.name], value)) is not None:
                annotations[one.name] = Annotated[hints[one.name], said]
        elif not (unnamed or layout.opens(here, one.name not in unchosen)):
            annotations[one.name] = _KEPT
        elif isinstance(value, tuple):
            each = [laid_out(member, layout, (*here, str(number))) for number, member in enumerate(value)]
            annotations[one.name] = tuple[tuple(inner for inner, _ in each)]  # pyright: ignore[reportInvalidTypeForm]
            values[one.name] = tuple(inner for _, inner in each)
        else:
            inner, values[one.name] = laid_out(value, layout, here)
            annotations[one.name] = Annotated[inner, *extras] if extras else inner
    if not annotations:
        return kind, config
    members = dict.fromkeys(annotations, field(default=None)) | {
        "__annotations__": annotations,
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "__qualname__": kind.__qualname__,
    }
    # A subclass: tyro finds the help of every field that stays where the field is declared.
    made = dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), members))
    _LAID_OUT.add(made)
    return made, made(**values)


def _is_members(value: Any) -> bool:
    """Whether a field holds several configurations."""
    return isinstance(value, tuple) and any(map(is_dataclass, value))


def as_declared(parsed: Any) -> Any:
    """What tyro made, in the classes that the code declares."""
    if isinstance(parsed, tuple):
        return tuple(map(as_declared, parsed))
    if not is_dataclass(parsed) or isinstance(parsed, type):
        return parsed
    values = {one.name: as_declared(getattr(parsed, one.name)) for one in fields(parsed)}
    kind = type(parsed)
    declared = kind.__bases__[0] if kind in _LAID_OUT else kind
    if declared is kind and all(values[name] is getattr(parsed, name) for name in values):
        return parsed
    return declared(**values)


def group_lines(config: Any) -> list[str]:
    """The groups that can be asked for, a line each: path, and what it is."""
    found = [(".".join(path).replace("_", "-"), _first_sentence(value)) for path, value in groups_of(config)]
    width = min(44, max((len(name) for name, _ in found), default=0))
    return [f"  {name:<{width}}  {said}" for name, said in found]


def groups_of(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every group of the models that are chosen, by path, and its configuration."""
    hints, unchosen = hints_of(type(config)), _unchosen(config)
    for one in fields(config):
        value = getattr(config, one.name)
        here = path if goes_unnamed(hints[one.name]) else (*path, one.name)
        if one.name in unchosen or tyro.conf.Suppress in getattr(hints[one.name], "__metadata__", ()):
            continue
        for number, member in enumerate(value if _is_members(value) else ()):
            yield (*here, str(number)), member
            yield from groups_of(member, (*here, str(number)))
        if is_dataclass(value):
            if here != path:
                yield here, value
            yield from groups_of(value, here)


def _unchosen(config: Any) -> set[str]:
    """The fields of other kinds than a seam's own."""
    hints = hints_of(type(config))
    choice = next((one.name for one in fields(config) if one.name in CHOICES), None)
    if choice is None:
        return set()
    said = getattr(config, choice)
    chosen = (said,) if isinstance(said, str) else said
    return {kind.replace("-", "_") for kind in _literals(hints[choice]) if kind not in chosen}


def values_of(argv: Sequence[str], path: Path) -> list[str]:
    """The values that a command line gives a flag."""
    found, taking = [], False
    for argument in argv:
        if argument.startswith("-"):
            _, _, value = argument.partition("=")
            taking = path_of(argument) == path
            found += [value] if taking and value else []
        elif taking:
            found.append(argument)
    return found


def goes_unnamed(hint: Any) -> bool:
    """Whether the flags of a field's configuration do without its name."""
    return any(getattr(extra, "name", None) == "" for extra in getattr(hint, "__metadata__", ()))


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Annotations, resolved."""
    return get_type_hints(kind, include_extras=True)


def _configuration_of(hint: Any) -> type | None:
    """The dataclass of `X | None`."""
    return next((part for part in get_args(hint) if is_dataclass(part) and isinstance(part, type)), None)


def _member_of(hint: Any) -> type | None:
    """The dataclass of `tuple[X, ...]`."""
    return _configuration_of(hint) if get_origin(hint) is tuple and Ellipsis in get_args(hint) else None


def _by_default(kind: type) -> Any:
    """An instance of its defaults; None where it has fields without one."""
    needs = [one for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    return None if needs else kind()


def _literals(hint: Any) -> tuple[str, ...]:
    """The words that a field of a Literal, or of a tuple of them, may have."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(word for part in get_args(hint) if part is not Ellipsis for word in _literals(part))


def _first_sentence(config: Any) -> str:
    """Of the class's docstring, at most about a line."""
    words = " ".join((type(config).__doc__ or "").split())
    said = words.partition(". ")[0].rstrip(".")
    return said if len(said) <= 76 else said[:75].rsplit(" ", 1)[0] + " ..."
