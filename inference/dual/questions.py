"""Questions that check a prompt, from its words: by template for GenEval's six tags, or written by a language model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from inference.dual.concept import QuestionAnswer
from inference.grounding.rule_reflection import counted
from inference.interfaces import ChatRequest, Vlm
from inference.prompt_grammar import NUMBERS, parse_prompt
from inference.requirements.atoms import noun_of
from inference.vlm.clean_text import clean_text, json_of
from inference.vlm.prompts import fill_prompt, load_prompt
from schemas.errors import InputError, RequestFailedError
from schemas.records import ObjectClause, Reason

MAX_QUESTIONS = 3  # as many as the published code asks for
MAX_PARTS = 8  # each is a pass of the VLM, at every step
ATTEMPTS = 3
OBJECT, NUMBER, LOOK, PLACE, WHOLE = range(5)
"""Steps of the way to a right image, the easiest first."""
_INSIDE = (*NUMBERS, "the", "no", "this", "these", "it", "they", "there")


def answer_schema(most: int = MAX_QUESTIONS) -> str:
    """JSON Schema of a model's questions."""
    question = {
        "type": "object",
        "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
        "required": ["question", "answer"],
        "additionalProperties": False,
    }
    listed = {"type": "array", "minItems": 1, "maxItems": most, "items": question}
    return json.dumps(
        {
            "type": "object",
            "properties": {"questions": listed},
            "required": ["questions"],
            "additionalProperties": False,
        }
    )


def show_question(prompt: str) -> QuestionAnswer:
    """ "Does the image show a red star?"; for words that only the VLM understands, too."""
    return QuestionAnswer(f"Does the image show {bare(prompt)}?")


def bare(text: str) -> str:
    """Words as they stand inside a sentence: without "a photo of" before them or a full stop behind them."""
    words = re.sub(r"(?i)^an? (?:photo|picture|image) of (?=\S)", "", " ".join(text.split())).rstrip(" .!。")
    first, _, others = words.partition(" ")
    return f"{first.lower()} {others}" if first.lower() in _INSIDE and others else words


def template_questions(prompt: str, parts: bool = False) -> tuple[QuestionAnswer, ...]:
    """What a prompt in one of GenEval's six forms asks for, a question each. InputError for any other prompt.

    Whether each object is there, in its number and colour, and how they stand. parts: the way there, too, the easiest
    first: all objects, then their numbers, their colours, and how they stand.
    """
    asked = stairs(parse_prompt(prompt).include, parts)
    return tuple(QuestionAnswer(question) for _, question in asked)


def stairs(clauses: Sequence[ObjectClause], parts: bool = True) -> list[tuple[int, str]]:
    """Questions with their steps, `OBJECT` to `PLACE`, none twice. parts: each clause's lower steps beside its highest,
    and the lowest of all first."""
    found: dict[str, int] = {}
    for clause in clauses:
        steps = [(OBJECT, _is_there(1, clause.class_name))]
        if clause.count > 1:
            steps.append((NUMBER, _is_there(clause.count, clause.class_name)))
        if clause.color is not None:
            steps.append((LOOK, _is_there(clause.count, f"{clause.color} {clause.class_name}")))
        found |= {question: step for step, question in (steps if parts else steps[-1:])}
    for clause in clauses:
        if clause.relation is None or clause.relative_to is None:
            continue
        target = clauses[clause.relative_to]
        alike = clause.class_name == target.class_name
        is_or_are, (one, other) = ("Is" if clause.count == 1 else "Are"), (_named(c, alike) for c in (clause, target))
        found[f"{is_or_are} the {one} {clause.relation} the {other}?"] = PLACE
    asked = [(step, question) for question, step in found.items()]
    return sorted(asked, key=lambda one: one[0]) if parts else asked


def written_questions(
    vlm: Vlm,
    prompts: Sequence[str],
    descriptions: Sequence[str] | None = None,
    template: str = "questions",
    most: int = MAX_QUESTIONS,
) -> list[tuple[QuestionAnswer, ...]]:
    """One to `most` questions for each prompt, written by a model from the prompt (and what it should show, in full).

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
                fill_prompt(text, prompt=prompts[i], description=described[i]),
                json_schema=answer_schema(most),
                attempt=attempt,
            )
            for i in open_
        ]
        for i, answer in zip(open_, vlm.answer(requests) if requests else [], strict=True):
            questions = read_questions(answer.text, most) if answer.finished else None
            if questions:
                found[i] = questions
    missing = [prompts[i] for i in range(len(prompts)) if i not in found]
    if missing:
        raise RequestFailedError(f"no questions were written about {missing[0]!r} in {ATTEMPTS} attempts")
    return [found[i] for i in range(len(prompts))]


def read_questions(answer: str, most: int = MAX_QUESTIONS) -> tuple[QuestionAnswer, ...] | None:
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
    return tuple(QuestionAnswer(question.text, told.text) for question, told in pairs[:most])


def questions_about(prompt: str, parts: bool = False) -> tuple[QuestionAnswer, ...]:
    """By template where the prompt has one of the six forms, else whether the image shows it."""
    try:
        return template_questions(prompt, parts)
    except InputError:
        return (show_question(prompt),)


def _is_there(count: int, name: str) -> str:
    return f"{'Is' if count == 1 else 'Are'} there {counted(count, name)}?"


def _named(clause: ObjectClause, with_color: bool) -> str:
    return f"{clause.color} {noun_of(clause)}" if with_color and clause.color else noun_of(clause)
