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
from inference.dual.concept import QuestionAnswer
from inference.dual.question_words import QuestionWords
from inference.vlm.vlm import VlmConfig
from pipelines.prompts.known_prompts import require_understood
from recipes import catalogue
from schemas.configuration import content_key
from schemas.errors import InputError
from schemas.new_file import write_new
from schemas.plain_text import one_line
from schemas.telling import telling
from schemas.terminal import say, say_error
from trainers.concept_file import MAX_TEXT, NAME


@dataclass(frozen=True)
class QuestionsArgs:
    """Write a concept file from a prompt: the questions that lead to a right image, the easiest first. They come from
    its words (GenEval's six forms), from a description of what it shows, yours or a VLM's, or from a model."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What a right image shows, or implies: one text, in quotes."""
    description: str = ""
    """What a right image shows, in plain statements, where the prompt only implies it: "a green heart"."""
    implied: bool = False
    """Have a VLM say that: --vlm.model "" with --vlm.endpoint-model and --vlm.base-url for one at an address."""
    written: bool = False
    """Have the VLM write the questions itself, from the prompt and what it shows."""
    parts: bool = True
    """Ask for the parts beside the whole: the objects, their number and colour, how they stand. Without them a question
    for each thing, or one for all."""
    name: str = ""
    """The concept's name; made of the prompt's words without one."""
    answers: Path = Path("runs/questions")
    """Where a model's answers are kept: the same words get the same questions."""
    out: Path | None = None
    """File to write, a new one; without one, the terminal."""
    words: QuestionWords = field(default_factory=QuestionWords)
    preset: Preset = field(default_factory=catalogue.default)
    vlm: VlmConfig = field(default_factory=VlmConfig)


def default_arguments(preset: str) -> QuestionsArgs:
    """What a preset says."""
    words = catalogue.load_or(preset, "question_words", QuestionWords())
    return QuestionsArgs(prompt=tyro.MISSING, preset=preset, words=words, vlm=catalogue.load(preset, "vlm"))


def main(argv: Sequence[str]) -> int:
    """0 when the file is written."""
    arguments = parse_with_preset(QuestionsArgs, argv, "questions", default_arguments, "inference")
    prompt = " ".join(one_prompt(arguments.prompt).split())
    _check(arguments, prompt)
    questions, note = _asked(arguments, prompt)
    text = _concept_file(arguments.name or _name_of(prompt), prompt, questions, note)
    if arguments.out is None:
        say(text, end="")
    else:
        write_new(arguments.out, text, "--out")
        say(arguments.out)
    return 0


def _check(arguments: QuestionsArgs, prompt: str) -> None:
    """InputError for what makes no file that the trainer reads, and for two descriptions."""
    if len(prompt) > MAX_TEXT:
        raise InputError(f"{len(prompt)} characters", field="prompt", expected=f"at most {MAX_TEXT}")
    if arguments.name and NAME.fullmatch(arguments.name) is None:
        raise InputError(f"{arguments.name!r}", field="--name", expected="1 to 64 letters, digits, - and _")
    if arguments.implied and arguments.description.strip():
        raise InputError("with --description", field="--implied", expected="one of them: they say the same")


def _asked(arguments: QuestionsArgs, prompt: str) -> tuple[Sequence[QuestionAnswer], str]:
    """The questions, and what a model said that they are made of. Says where they only repeat the prompt."""
    from inference.dual.questions import show_question, template_questions
    from inference.dual.statements import described_questions

    description, words = " ".join(arguments.description.split()), arguments.words
    note = ""
    if arguments.implied or arguments.written:
        from commands.endpoint_errors import explained
        from inference.dual.implied import implied
        from inference.dual.questions import MAX_PARTS, MAX_QUESTIONS, written_questions
        from inference.vlm.journal import StorageJournal
        from schemas.storage import LocalStorage

        require_understood(prompt, [arguments.vlm.model])
        with telling(f"asking {arguments.vlm.name}"), explained(arguments.vlm):
            vlm = arguments.vlm.open(StorageJournal(LocalStorage(arguments.answers)))
            if arguments.implied:
                (description,) = implied(vlm, [prompt], words.implied)
                note = description
            if arguments.written:
                template, most = (words.parts, MAX_PARTS) if arguments.parts else (words.few, MAX_QUESTIONS)
                return written_questions(vlm, [prompt], [description or prompt], template, most)[0], note
    if description and arguments.parts:
        return described_questions(prompt, description), note
    if description:
        return (show_question(description), show_question(prompt)), note
    try:
        return template_questions(prompt, arguments.parts), note
    except InputError:
        say_error(
            f"the question repeats the words of {one_line(prompt)[:80]!r} and asks for nothing that they imply. Parts "
            f"of it teach more: --description says what a right image shows, --implied has a VLM say it, --written has "
            f"one write the questions"
        )
        return (show_question(prompt),), note


def _name_of(prompt: str) -> str:
    name = re.sub("[^A-Za-z0-9]+", "-", prompt.removeprefix("a photo of "))[:64].strip("-")
    return name if re.search("[A-Za-z]", name) else f"concept-{content_key(prompt)[:8]}"


def _concept_file(name: str, prompt: str, questions: Sequence[QuestionAnswer], note: str) -> str:
    """YAML. note: a comment."""
    # JSON strings are YAML strings.
    lines = [f"# as the VLM says: {one_line(note)}"] if note else []
    lines += [f"name: {name}", f"prompt: {json.dumps(prompt, ensure_ascii=False)}", "qa_pairs:"]
    for asked in questions:
        lines.append(f"  - question: {json.dumps(asked.question, ensure_ascii=False)}")
        lines.append(f"    answer: {json.dumps(asked.answer, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
