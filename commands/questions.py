"""`python -m inference questions "a photo of a star left of a ring"`: a concept file for dual-process distillation."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.quoted import one_prompt
from inference.vlm.vlm import VlmConfig
from recipes import catalogue
from schemas.new_file import write_new
from schemas.terminal import say


@dataclass(frozen=True)
class QuestionsArgs:
    """Write a concept file from a prompt: its questions by template (GenEval's six forms), or written by a model."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What a right image shows, or implies: one text, in quotes."""
    description: str = ""
    """What a right image shows, in full, where the prompt only implies it; for the model."""
    name: str = ""
    """The concept's name; made of the prompt's words without one."""
    written: bool = False
    """Have a model write them: --vlm.model "" with --vlm.endpoint-model and --vlm.base-url for one at an address."""
    answers: Path = Path("runs/questions")
    """Where a model's answers are kept: the same words get the same questions."""
    out: Path | None = None
    """File to write, a new one; without one, the terminal."""
    preset: Preset = field(default_factory=catalogue.default)
    vlm: VlmConfig = field(default_factory=VlmConfig)


def default_arguments(preset: str) -> QuestionsArgs:
    """What a preset says."""
    return QuestionsArgs(prompt=tyro.MISSING, preset=preset, vlm=catalogue.load(preset, "vlm"))


def main(argv: Sequence[str]) -> int:
    """0 when the file is written."""
    arguments = parse_with_preset(QuestionsArgs, argv, "questions", default_arguments, "inference")
    from inference.dual.questions import questions_about, written_questions

    prompt = " ".join(one_prompt(arguments.prompt).split())
    if arguments.written:
        from commands.endpoint_errors import explained
        from inference.vlm.journal import StorageJournal
        from schemas.storage import LocalStorage

        with explained(arguments.vlm):
            vlm = arguments.vlm.open(StorageJournal(LocalStorage(arguments.answers)))
            (questions,) = written_questions(vlm, [prompt], [arguments.description or prompt])
    else:
        questions = questions_about(prompt)
    name = arguments.name or re.sub("[^A-Za-z0-9]+", "-", prompt.removeprefix("a photo of "))[:64].strip("-")
    # JSON strings are YAML strings.
    lines = [f"name: {name}", f"prompt: {json.dumps(prompt, ensure_ascii=False)}", "qa_pairs:"]
    for asked in questions:
        lines.append(f"  - question: {json.dumps(asked.question, ensure_ascii=False)}")
        lines.append(f"    answer: {json.dumps(asked.answer, ensure_ascii=False)}")
    text = "\n".join(lines) + "\n"
    if arguments.out is None:
        say(text, end="")
    else:
        write_new(arguments.out, text, "--out")
        say(arguments.out)
    return 0
