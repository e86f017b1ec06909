"""Questions that check a prompt, from its words: by template for GenEval's six tags, or written by a language model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from inference.dual.concept import QuestionAnswer
from inference.interfaces import ChatRequest, Vlm
from inference.prompt_grammar import NUMBERS, parse_prompt
from inference.vlm.clean_text import clean_text, json_of
from inference.vlm.prompts import fill_prompt, load_prompt
from schemas.errors import InputError, RequestFailedError
from schemas.records import ObjectClause, Reason, Tag

MAX_QUESTIONS = 3  # as many as the published code asks for
ATTEMPTS = 3
_WORDS = {number: word for word, number in NUMBERS.items() if word not in ("a", "an")}
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "questions": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_QUESTIONS,
                "items": {
                    "type": "object",
                    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                    "required": ["question", "answer"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["questions"],
        "additionalProperties": False,
    }
)


def show_question(prompt: str) -> QuestionAnswer:
    """ "Does the image show a photo of a red star?"; for words that only the VLM understands, without "a photo of"."""
    return QuestionAnswer(f"Does the image show {prompt}?")


def template_questions(prompt: str) -> tuple[QuestionAnswer, ...]:
    """What a prompt in one of GenEval's six forms asks for, a question each. InputError for any other prompt.

    single_object, two_object, colors, color_attr: whether each object is there (with its colour); counting: whether
    there are so many; position: whether the objects are there, and stand so.
    """
    record = parse_prompt(prompt)
    if record.tag == Tag.COUNTING:
        (clause,) = record.include
        return (QuestionAnswer(f"Are there {_WORDS[clause.count]} {_plural(clause.class_name)}?"),)
    asked = [QuestionAnswer(f"Is there {_one(clause)}?") for clause in record.include]
    for clause in record.include:
        if clause.relation is not None and clause.relative_to is not None:
            target = record.include[clause.relative_to]
            asked.append(QuestionAnswer(f"Is the {clause.class_name} {clause.relation} the {target.class_name}?"))
    return tuple(asked)


def written_questions(
    vlm: Vlm, prompts: Sequence[str], descriptions: Sequence[str] | None = None, template: str = "questions"
) -> list[tuple[QuestionAnswer, ...]]:
    """One to three questions for each prompt, written by a model from the prompt (and what it should show, in full).

    Answers of endpoints are kept by their journal, so that the same words get the same questions. RequestFailedError
    for a prompt about which even the third answer is no JSON of questions.
    """
    described = descriptions or prompts
    text = load_prompt(template)
    found: dict[int, tuple[QuestionAnswer, ...]] = {}
    for attempt in range(ATTEMPTS):
        open_ = [i for i in range(len(prompts)) if i not in found]
        requests = [
            ChatRequest(
                fill_prompt(text, prompt=prompts[i], description=described[i]), json_schema=_SCHEMA, attempt=attempt
            )
            for i in open_
        ]
        for i, answer in zip(open_, vlm.answer(requests) if requests else [], strict=True):
            questions = read_questions(answer.text) if answer.finished else None
            if questions:
                found[i] = questions
    missing = [prompts[i] for i in range(len(prompts)) if i not in found]
    if missing:
        raise RequestFailedError(f"no questions were written about {missing[0]!r} in {ATTEMPTS} attempts")
    return [found[i] for i in range(len(prompts))]


def read_questions(answer: str) -> tuple[QuestionAnswer, ...] | None:
    """The questions of a model's answer (JSON, whatever stands around it); None for anything else."""
    try:
        pairs = [(clean_text(item["question"]), clean_text(item["answer"])) for item in json_of(answer)["questions"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    # "None" is no question, but may be the answer to one.
    if not pairs or not all(
        q.problem is None and a.problem in (None, Reason.EMPTY_ANSWER) and a.text for q, a in pairs
    ):
        return None
    return tuple(QuestionAnswer(question.text, told.text) for question, told in pairs[:MAX_QUESTIONS])


def questions_about(prompt: str) -> tuple[QuestionAnswer, ...]:
    """By template where the prompt has one of the six forms, else whether the image shows it."""
    try:
        return template_questions(prompt)
    except InputError:
        return (show_question(prompt),)


def _one(clause: ObjectClause) -> str:
    name = f"{clause.color} {clause.class_name}" if clause.color else clause.class_name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if clause.count == 1 else f"{clause.count} {_plural(name)}"


def _plural(name: str) -> str:
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"
