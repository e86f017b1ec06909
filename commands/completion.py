"""`reflectionflow completion bash|zsh|fish`: a script that lets a shell complete commands, flags and presets. It is
made of the commands as they are, and asks nothing later."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Literal, get_args

import tyro

from commands.arguments import parse
from commands.everyday import PAGES
from commands.flag_groups import goes_unnamed, hints_of
from commands.main import GROUPS
from commands.runs import ResumeArgs
from recipes import catalogue
from schemas.own_modules import full_name
from schemas.terminal import say


@dataclass(frozen=True)
class CompletionArgs:
    """Print a script with which a shell completes commands, flags and presets."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Which shell."""


def main(argv: Sequence[str]) -> int:
    """0 when the script is printed."""
    arguments = parse(CompletionArgs, argv, "completion", package="commands")
    commands = {name: said for group in GROUPS.values() for name, said in group.commands.items()}
    flags = {name: flags_of(name, module) for name, (module, _) in commands.items()}
    say(_fish(commands, flags) if arguments.shell == "fish" else _bash(flags, arguments.shell))
    return 0


def flags_of(command: str, module: str) -> list[str]:
    """A command's own flags, and those of its everyday page."""
    here = importlib.import_module(full_name(module))
    made = [one for one in vars(here).values() if isinstance(one, type) and one.__module__ == here.__name__]
    kinds = [one for one in made if one.__name__.endswith(("Args", "Arguments"))] or [ResumeArgs]
    own = (flag for kind in kinds for flag in _own_flags(kind))
    return list(dict.fromkeys([*own, *(f"--{flag}" for flag in PAGES[command].flags), "--help", "--help-all"]))


def _own_flags(kind: type) -> Iterator[str]:
    """Of a class of arguments, and of the groups whose name goes unsaid."""
    hints = hints_of(kind)
    for one in fields(kind):
        inner, *extras = get_args(hints[one.name]) if hasattr(hints[one.name], "__metadata__") else (hints[one.name],)
        if tyro.conf.Suppress in extras or tyro.conf.Positional in extras:
            continue
        if any(is_dataclass(part) for part in (inner, *get_args(inner))):
            yield from _own_flags(inner) if goes_unnamed(hints[one.name]) else ()
        else:
            yield f"--{one.name.replace('_', '-')}"


def _bash(flags: dict[str, list[str]], shell: str) -> str:
    cases = "\n".join(f'    {name}) flags="{" ".join(own)}" ;;' for name, own in flags.items())
    first = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{first}_reflectionflow() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" flags=""
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "{" ".join(flags)} --help --version" -- "$word"))
    return
  fi
  if [[ ${{COMP_WORDS[COMP_CWORD - 1]}} == --preset ]]; then
    COMPREPLY=($(compgen -W "{" ".join(catalogue.names())}" -- "$word"))
    return
  fi
  [[ $word == -* ]] || return 0
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  COMPREPLY=($(compgen -W "$flags" -- "$word"))
}}
complete -o default -F _reflectionflow reflectionflow"""


def _fish(commands: dict[str, tuple[str, str]], flags: dict[str, list[str]]) -> str:
    lines = [
        f"complete -c reflectionflow -n __fish_use_subcommand -f -a {name} -d {shlex.quote(what)}"
        for name, (_, what) in commands.items()
    ]
    for name, own in flags.items():
        seen = f"complete -c reflectionflow -n '__fish_seen_subcommand_from {name}'"
        presets = f" -x -a '{' '.join(catalogue.names())}'"
        lines += [f"{seen} -l {flag[2:]}" + (presets if flag == "--preset" else "") for flag in own]
    return "\n".join(lines)
