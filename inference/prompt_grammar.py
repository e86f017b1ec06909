"""Requirements from a prompt's words, for prompts in GenEval's six forms: "a photo of two red circles"."""

import re
from dataclasses import replace

from schemas.errors import InputError
from schemas.records import RELATIONS, ObjectClause, PromptRecord, Tag

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_IRREGULAR = {"people": "person", "knives": "knife", "mice": "mouse", "buses": "bus"}
_IRREGULAR |= {name: name for name in ("sheep", "skis", "scissors")}
_OBJECT = re.compile(rf"({'|'.join(NUMBERS)}) (?:({'|'.join(COLORS)}) )?(.+)")
_RELATION = re.compile(rf" ({'|'.join(RELATIONS)}) ")


def parse_prompt(text: str, prompt_id: str = "prompt") -> PromptRecord:
    """The record of a prompt in one of GenEval's forms. InputError, with an example, for any other text."""
    words = " ".join(text.lower().replace(",", " ").strip(" .").split())
    body = words.removeprefix("a photo of ")
    related = _RELATION.split(body)
    if len(related) == 3:
        left, relation, right = related
        target, moved = _clause(right, text), _clause(left, text)
        moved = ObjectClause(moved.class_name, moved.count, moved.color, relation, relative_to=0)
        return PromptRecord(prompt_id, text, "rule", Tag.POSITION, include=(target, moved))
    clauses = tuple(_clause(part, text) for part in body.split(" and "))
    if len(clauses) == 1:
        (clause,) = clauses
        if clause.count > 1:
            too_many = ObjectClause(clause.class_name, clause.count + 1)
            return PromptRecord(prompt_id, text, "rule", Tag.COUNTING, clauses, exclude=(too_many,))
        tag = Tag.COLORS if clause.color else Tag.SINGLE_OBJECT
        return PromptRecord(prompt_id, text, "rule", tag, clauses)
    tag = Tag.COLOR_ATTR if any(clause.color for clause in clauses) else Tag.TWO_OBJECT
    return PromptRecord(prompt_id, text, "rule", tag, clauses)


def record_of(text: str) -> PromptRecord:
    """A prompt of which nothing but its words is known."""
    return PromptRecord("prompt", text, "rule")


def with_requirements(prompt: PromptRecord) -> PromptRecord:
    """What images of a prompt are checked against: its own clauses where it came with some, else what its words tell.
    InputError where neither says anything."""
    if prompt.include or prompt.exclude:
        return prompt
    told = parse_prompt(prompt.text, prompt.prompt_id)
    return replace(told, subset=prompt.subset, tag=prompt.tag or told.tag)


def tag_of(prompt: PromptRecord) -> str | None:
    """Its own tag, else what its words tell; None where they are in none of GenEval's forms."""
    if prompt.tag:
        return prompt.tag
    try:
        return parse_prompt(prompt.text).tag
    except InputError:
        return None


def _clause(part: str, text: str) -> ObjectClause:
    match = _OBJECT.fullmatch(part.strip())
    if match is None:
        raise InputError(
            f"cannot tell what {text!r} requires",
            field="prompt",
            expected='a prompt like "a photo of two red circles" or "a photo of a star left of a ring"',
        )
    number, color, noun = match.groups()
    count = NUMBERS[number]
    return ObjectClause(_singular(noun) if count > 1 else noun, count, color)


def _singular(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("sses", "shes", "ches", "xes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith("ss"):
        last = last[:-1]
    return f"{head} {last}".strip()
