"""One entry for every command: `reflectionflow COMMAND`, `python -m pipelines COMMAND`, and the same of trainers and
inference. A command's module is imported when it is called, and has `main(argv) -> exit code`."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.atomic_file import NO_ROOM
from schemas.errors import ReflectionFlowError, StoppedError
from schemas.own_modules import INSTALLED, full_name, program, version
from schemas.terminal import guard_terminal, say, say_error


@dataclass(frozen=True)
class Group:
    """Commands of one package. what: of the package; by name, module and what the command does."""

    what: str
    commands: Mapping[str, tuple[str, str]]
    interrupted: str


GROUPS: dict[str, Group] = {
    "pipelines": Group(
        "build datasets, search, evaluate, and look after run folders",
        {
            "run": ("commands.run", "build a dataset in a run folder (or go on with it)"),
            "search": ("commands.search", "search for the best image of every prompt, and judge what was found"),
            "distill": ("commands.distill", "teach a generator many concepts by a VLM's answers, each into a LoRA"),
            "evaluate": ("commands.evaluate", "score a search, or images by GenEval, GenEval 2 or CommonsenseT2I"),
            "harvest": ("commands.harvest", "make pairs for the next corrector out of a search's traces"),
            "routes": ("commands.routes", "learn from searches what to correct and what to draw afresh"),
            "vocabulary": ("commands.vocabulary", "have a language model name what prompts are composed of"),
            "plan": ("commands.plan", "say what a run will make and cost, before it is started"),
            "status": ("commands.status", "what is done, what is left, what was rejected or put in quarantine"),
            "resume": ("commands.resume", "go on with a run that was stopped or killed"),
            "retry": ("commands.retry", "do the rows in quarantine again"),
            "verify": ("commands.verify", "recount everything from blocks and shards"),
            "inspect": ("commands.inspect", "show one unit, prompt or shard"),
            "report": ("commands.report", "write the page of pictures, and the dataset card"),
            "push": ("commands.push", "upload shards and card to the hub"),
            "gc": ("commands.gc", "remove blocks that nothing refers to"),
        },
        "stopped at once; the same command again goes on with what is there",
    ),
    "trainers": Group(
        "train one model",
        {
            "corrector": (
                "commands.train_corrector",
                "train a FLUX LoRA that draws again from a flawed image and a reflection",
            ),
            "verifier": ("commands.train_verifier", "train a Qwen2.5-VL that scores how well an image fits its prompt"),
            "reflector": ("commands.train_reflector", "train a Qwen2.5-VL that says what is wrong with an image"),
            "condenser": ("commands.train_condenser", "train a Qwen2.5-VL that says long prompts shortly"),
            "dual-process": ("commands.train_dual_process", "train a FLUX LoRA by a VLM's answers about its images"),
            "micro": ("commands.train_micro", "train the micro family, from the renderer alone"),
        },
        "interrupted; the same command goes on from the last checkpoint, where there is one",
    ),
    "inference": Group(
        "try one model on one prompt or image",
        {
            "generate": ("commands.generate", "draw images of one prompt"),
            "check": ("commands.check", "check images against a prompt: boxes, masks, colours, reasons"),
            "score": ("commands.score", "score images of a prompt with each reward, and with all together"),
            "questions": ("commands.questions", "write a concept file for dual-process distillation from a prompt"),
            "reflect": ("commands.reflect", "search for the best image of one prompt, and tell how it came about"),
            "drift": ("commands.drift", "say how far one folder of images lies from another (CMMD)"),
            "judge": ("commands.judge", "judge images with the judge that no search uses"),
        },
        "interrupted",
    ),
    "commands": Group(
        "this command line itself",
        {"completion": ("commands.completion", "print a script with which a shell completes commands and flags")},
        "interrupted",
    ),
}
"""Names are unique over all groups."""


def main(argv: Sequence[str] | None = None, package: str | None = None) -> int:
    """package: whose commands alone are known; None: of all. Exit codes: 0 done; 1 the work failed; 2 bad usage or
    input; 3 another configuration's or driver's folder; 4 done, but rows are in
    quarantine, or nearly all were rejected alike; 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    groups = GROUPS if package is None else {package: GROUPS[package]}
    started = "reflectionflow" if package is None else program(package)
    if not arguments or arguments[0] in ("-h", "--help"):
        with contextlib.suppress(BrokenPipeError):  # `--help | head`
            _print_usage(started, groups)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        say(f"reflectionflow {version()}")
        return 0
    name = arguments[0]
    group = next((group for group in groups.values() if name in group.commands), None)
    if group is None:
        known = ", ".join(name for group in groups.values() for name in group.commands)
        say_error(f"error: unknown command {name!r}\n  expected: {known}")
        return 2
    guard_terminal()
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # where a library ends the process, it says what was being done
    try:
        return importlib.import_module(full_name(group.commands[name][0])).main(arguments[1:])
    except ReflectionFlowError as error:
        say_error(f"{error}" if isinstance(error, StoppedError) else f"error: {error}")  # who asked made no mistake
        return error.exit_code
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        say_error(f"error: {error.filename or 'the disk'}: {error.strerror}; make room, then the same command again")
        return 1
    except KeyboardInterrupt as interrupt:
        say_error(str(interrupt) or group.interrupted)
        return 130


def _print_usage(started: str, groups: Mapping[str, Group]) -> None:
    say(f"usage: {started} COMMAND [--help]\n")
    for package, group in groups.items():
        if len(groups) > 1:
            say(group.what + ("" if INSTALLED else f" (also: python -m {package})"))
        for name, (_, what) in group.commands.items():
            say(f"  {name:<13} {what}")
        if len(groups) > 1:
            say()
