"""Requirements from a prompt's words, for prompts in GenEval's six forms: "a photo of two red circles".

Only where every noun is a class that is known. "a man and his dog", "a bird above a nest of eggs" and "a photo of a
teal cat" sound like these forms, and are not: such a prompt is a free one.
"""

import re
from dataclasses import replace

from inference.known_classes import KnownClasses, known_classes
from schemas.errors import InputError
from schemas.records import RELATIONS, ObjectClause, PromptRecord, RequirementSource, Tag

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_OBJECT = re.compile(rf"({'|'.join(NUMBERS)}) (?:({'|'.join(COLORS)}) )?(.+)")
_RELATION = re.compile(rf" ({'|'.join(RELATIONS)}) ")


def parse_prompt(text: str, prompt_id: str = "prompt", known: KnownClasses | None = None) -> PromptRecord:
    """The record of a prompt in one of GenEval's forms. known: whose classes it may speak of; None: all that this
    project knows (`known_classes`). InputError, with an example, for any other text."""
    classes = known or known_classes()
    words = " ".join(text.lower().replace(",", " ").strip(" .").split())
    body = words.removeprefix("a photo of ")
    related = _RELATION.split(body)
    if len(related) == 3:
        left, relation, right = related
        target, moved = _clause(right, text, classes), _clause(left, text, classes)
        moved = ObjectClause(moved.class_name, moved.count, moved.color, relation, relative_to=0)
        return _record(prompt_id, text, Tag.POSITION, (target, moved))
    clauses = tuple(_clause(part, text, classes) for part in body.split(" and "))
    if len(clauses) == 1:
        (clause,) = clauses
        if clause.count > 1:
            too_many = ObjectClause(clause.class_name, clause.count + 1)
            return replace(_record(prompt_id, text, Tag.COUNTING, clauses), exclude=(too_many,))
        return _record(prompt_id, text, Tag.COLORS if clause.color else Tag.SINGLE_OBJECT, clauses)
    if len(set(clauses)) < len(clauses):
        raise _unread(text, "the same object twice is a number of them, which these forms say otherwise")
    tag = Tag.COLOR_ATTR if any(clause.color for clause in clauses) else Tag.TWO_OBJECT
    return _record(prompt_id, text, tag, clauses)


def record_of(text: str) -> PromptRecord:
    """A prompt of which nothing but its words is known."""
    return PromptRecord("prompt", text, "rule")


def told_or_free(text: str, known: KnownClasses | None = None) -> PromptRecord:
    """A prompt with what its words tell; one of which nothing else is known, where they are in none of the forms."""
    try:
        return parse_prompt(text, known=known)
    except InputError:
        return record_of(text)


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


def _record(prompt_id: str, text: str, tag: Tag, include: tuple[ObjectClause, ...]) -> PromptRecord:
    return PromptRecord(prompt_id, text, "rule", tag, include, requirements_from=RequirementSource.GRAMMAR)


def _clause(part: str, text: str, classes: KnownClasses) -> ObjectClause:
    match = _OBJECT.fullmatch(part.strip())
    if match is None:
        raise _unread(text)
    number, color, noun = match.groups()
    count = NUMBERS[number]
    name = classes.of_one(noun) if count == 1 else classes.of_several(noun)
    if name is None:
        shown = noun if len(noun) <= 40 else f"{noun[:39]}…"
        raise _unread(text, f"{shown!r} is no class that is known")
    return ObjectClause(name, count, color)


def _unread(text: str, why: str = "") -> InputError:
    shown = text if len(text) <= 200 else f"{text[:199]}…"
    return InputError(
        f"cannot tell what {shown!r} requires" + (f": {why}" if why else ""),
        field="prompt",
        expected='a prompt like "a photo of two red circles" or "a photo of a star left of a ring"',
    )
