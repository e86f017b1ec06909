"""What all commands share: parsing with tyro, and the preset that gives every other flag its default."""

import dataclasses
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from commands import flag_groups
from commands.everyday import PAGES, Everyday
from commands.metavars import REGISTRY
from commands.own_vlms import with_own_vlms
from inference.vlm.vlm import VlmConfig
from recipes import catalogue
from schemas.errors import InputError
from schemas.own_modules import program
from schemas.places import local_path
from schemas.terminal import say

T = TypeVar("T")
_JUDGE, _KIND = "--judge.judge.", "--judge.kind"
Preset = Annotated[str, tyro.conf.arg(metavar="NAME", help=f"models and sizes: {catalogue.in_words()} (`recipes/`)")]


def parse(
    arguments: type[T], argv: Sequence[str], command: str, default: T | None = None, package: str = "pipelines"
) -> T:
    """Arguments of a command. A usage error prints what was expected and exits with 2; `--help` exits with 0."""
    said, asked = flag_groups.take_help(as_named_now([with_home(argument) for argument in argv]))
    if default is None:
        required = flag_groups.required(arguments)
        default = flag_groups.with_named_kinds(required, said, but=VlmConfig, flagged=True)
    page = PAGES[command] if asked == [] else None
    listed = frozenset(flag_groups.path_of(flag) for flag in page.flags) if page and page.flags else None
    layout = flag_groups.Layout(flag_groups.named_groups(said), tuple(asked or ()), listed)
    kind, shown = flag_groups.laid_out(default, layout)
    if page is not None:
        _say_examples(arguments, page, package)
    try:
        parsed = tyro.cli(
            kind,
            args=said,
            prog=f"{program(package)} {command}",
            description="" if page is not None else None,
            default=shown,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
            registry=REGISTRY,
        )
    except SystemExit as end:
        if asked is not None and not end.code:
            _say_subjects(default, everything=asked == [()])
        raise
    declared = flag_groups.as_declared(parsed)
    _check_paths(declared, "-")
    return declared


def as_named_now(argv: Sequence[str]) -> list[str]:
    """A command line with flags by the names that they have now: a search's judge was `--judge.judge.kind`; and `micro`
    is what the micro world's judge is called by people."""
    named = ["--judge." + one.removeprefix(_JUDGE) if one.startswith(_JUDGE) else one for one in argv]
    named = ["--judge.kind=segmentation" if one == f"{_KIND}=micro" else one for one in named]
    return ["segmentation" if pair == (_KIND, "micro") else pair[1] for pair in zip(["", *named], named, strict=False)]


def _say_examples(arguments: type, page: Everyday, package: str) -> None:
    """How an everyday page begins: what the command does, and how it is called."""
    width = shutil.get_terminal_size().columns
    say(textwrap.fill(" ".join((arguments.__doc__ or "").split()), width) + "\n")
    for example in page.examples:
        say(f"  {program(package)} " + example.replace("\n", "\n  "))
    say()


def _say_subjects(default: Any, everything: bool) -> None:
    """How a help page ends: where the other flags are listed."""
    lines = flag_groups.group_lines(default)
    if everything and lines:
        say("\nBy subject: `--help SUBJECT` lists one.")
        groups = flag_groups.groups_of(default)
        generator = next((".".join(path) for path, one in groups if hasattr(one, "diffusers")), None)
        if generator is not None:
            say("Another kind of model has its own flags, once it is named:")
            say(f"`--help {generator} --{generator}.kind diffusers`.")
        say("\n" + "\n".join(lines))
    elif not everything:
        say("\nEvery flag: --help-all" + ("" if not lines else "; of one subject: --help SUBJECT, for example"))
        subjects = dict.fromkeys(line.split()[0].partition(".")[0] for line in lines)
        if subjects:
            say(textwrap.fill(", ".join(subjects), shutil.get_terminal_size().columns))


def with_home(argument: str) -> str:
    """An argument, or `--flag=value`, whose value begins with `~/` or `~user/`, as a shell would hand it over: shells
    leave `--run=~/demo` as it is."""
    flag, separator, value = argument.partition("=")
    if separator and flag.startswith("--"):
        return f"{flag}={with_home(value)}"
    return os.path.expanduser(argument) if re.fullmatch(r"~[\w.-]*(/.*)?", argument) else argument


def _check_paths(value: Any, flag: str) -> None:
    """InputError for a URI where a path of this machine belongs."""
    if isinstance(value, Path):
        try:
            local_path(value)
        except InputError as error:
            raise InputError(error.problem, field=flag, expected=error.expected) from None
    for one in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        _check_paths(getattr(value, one.name), f"{flag}{'.' if flag != '-' else '-'}{one.name.replace('_', '-')}")


def parse_with_preset(
    arguments: type[T], argv: Sequence[str], command: str, default: Callable[[str], T], package: str = "pipelines"
) -> T:
    """The same; the preset is looked up first, and `default` makes of its name what every other flag is by default.
    Help is about the models that are chosen."""
    argv = as_named_now(argv)
    preset = flag_groups.with_named_kinds(default(preset_of(argv)), argv, but=VlmConfig)
    named = flag_groups.with_named_kinds(with_own_vlms(preset, argv), argv, but=VlmConfig, flagged=True)
    return parse(arguments, argv, command, named, package)


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value a command line gives a flag, looked up before it is parsed."""
    for index, argument in enumerate(argv):
        name, separator, value = argument.partition("=")
        if name == flag:
            value = value if separator else next(iter(argv[index + 1 : index + 2]), None)
            return None if value is None else with_home(value)
    return None


def preset_of(argv: Sequence[str]) -> str:
    """The preset that a command line names; the first one when it names none."""
    name = flag_value(argv, "--preset")
    if name is None and "--preset" in argv:
        raise InputError("--preset without a name", field="--preset", expected=" or ".join(catalogue.names()))
    return name or catalogue.default()


def refuse_flags(argv: Sequence[str], flags: Sequence[str], beside: str) -> None:
    """InputError for what a command line gives that has no effect there."""
    given = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    for flag in flags:
        if any(name == flag or name.startswith(f"{flag}.") for name in given):
            raise InputError(f"{flag} says nothing beside {beside}", field=flag, expected=f"{beside} without it")
