"""Every field that is a flag says what it is: its docstring is the flag's help text."""

import ast
import importlib
import inspect
import pkgutil
import textwrap
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import tyro

import commands
from commands.main import GROUPS


def all_arguments() -> list[str]:
    """Module and class of every command's arguments."""
    found = []
    for module in pkgutil.iter_modules(commands.__path__):
        if module.name != "__main__":
            here = vars(importlib.import_module(f"commands.{module.name}")).values()
            kinds = [k for k in here if isinstance(k, type) and k.__module__ == f"commands.{module.name}"]
            found += [f"{k.__module__}.{k.__name__}" for k in kinds if k.__name__.endswith(("Args", "Arguments"))]
    return found


COMMANDS = all_arguments()


def with_docstring(kind: type) -> set[str]:
    """Names of the fields, inherited ones too, with a string below them."""
    names = set()
    for base in kind.__mro__:
        if not is_dataclass(base):
            continue
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(defined, ast.ClassDef)
        for line, below in zip(defined.body, defined.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if is_text and isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                names.add(line.target.id)
    return names


def dataclasses_in(hint: Any) -> list[type]:
    """Of a field's type: of X and of X | None."""
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [kind for part in get_args(hint) for kind in dataclasses_in(part)]


def without_help(kind: type, seen: set[type] | None = None) -> list[str]:
    """`module.Class.field` of all fields that are flags without a help text, nested configurations included."""
    seen = set() if seen is None else seen
    if kind in seen:
        return []
    seen.add(kind)
    told, missing = with_docstring(kind), []
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        hint, extras = hints[one.name], ()
        if get_origin(hint) is Annotated:
            hint, *extras = get_args(hint)
        if tyro.conf.Suppress in extras:
            continue
        nested = dataclasses_in(hint)
        for inner in nested:
            missing += without_help(inner, seen)
        if not nested and one.name not in told and not any(getattr(extra, "help", None) for extra in extras):
            missing.append(f"{kind.__module__}.{kind.__qualname__}.{one.name}")
    return missing


def test_every_command_is_looked_at():
    modules = {name.split(".")[1] for name in COMMANDS}
    started = {module.partition(".")[2] for group in GROUPS.values() for module, _ in group.commands.values()}
    assert started - modules <= {"resume", "retry"}  # they share the arguments of `commands.runs`
    assert "commands.runs.ResumeArgs" in COMMANDS


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_flag_has_help(arguments):
    module, _, name = arguments.rpartition(".")
    assert without_help(getattr(importlib.import_module(module), name)) == []


@dataclass
class Inner:
    silent: int = 0
    told: int = 0
    """Help."""


@dataclass
class Outer(Inner):
    """Not a field's."""

    hidden: Annotated[int, tyro.conf.Suppress] = 0
    by_argument: Annotated[int, tyro.conf.arg(help="Help.")] = 0
    inner: Annotated[Inner, tyro.conf.arg(name="")] = field(default_factory=Inner)
    maybe: Inner | None = None
    bare: str = ""  # a comment is no help


def test_what_has_none_is_found():
    found = [name.rpartition(".")[2] for name in without_help(Outer)]
    assert sorted(found) == ["bare", "silent", "silent"]
    assert [name.rpartition(".")[2] for name in without_help(Inner)] == ["silent"]
