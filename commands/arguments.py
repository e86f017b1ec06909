"""What all commands share: parsing with tyro, and the preset that gives every other flag its default."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import tyro

from commands.own_vlms import with_own_vlms
from commands.shown_flags import only_chosen_kinds
from recipes import catalogue
from schemas.errors import InputError

T = TypeVar("T")
Preset = Annotated[str, tyro.conf.arg(metavar="NAME", help=f"models and sizes: {catalogue.in_words()} (`recipes/`)")]


def parse(
    arguments: type[T], argv: Sequence[str], command: str, default: T | None = None, package: str = "pipelines"
) -> T:
    """Arguments of a command. A usage error prints what was expected and exits with 2."""
    return tyro.cli(  # pyright: ignore[reportReturnType] - tyro types a default of None as a result
        arguments,
        args=list(argv),
        prog=f"python -m {package} {command}",
        default=default,
        config=(tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
    )


def parse_with_preset(
    arguments: type[T], argv: Sequence[str], command: str, default: Callable[[str], T], package: str = "pipelines"
) -> T:
    """The same; the preset is looked up first, and `default` makes of its name what every other flag is by default.
    Help is about the models that are chosen."""
    preset = default(preset_of(argv))
    shown = only_chosen_kinds(preset, argv) if {"-h", "--help"} & set(argv) else preset
    return parse(arguments, argv, command, with_own_vlms(shown, argv), package)


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value a command line gives a flag, looked up before it is parsed."""
    for index, argument in enumerate(argv):
        name, separator, value = argument.partition("=")
        if name == flag:
            return value if separator else next(iter(argv[index + 1 : index + 2]), None)
    return None


def preset_of(argv: Sequence[str]) -> str:
    """The preset that a command line names; the first one when it names none."""
    name = flag_value(argv, "--preset")
    if name is None and "--preset" in argv:
        raise InputError("--preset without a name", field="--preset", expected=" or ".join(catalogue.names()))
    return name or catalogue.default()
