"""A VLM's answer to what a prompt asks for, checked strictly: clauses in GenEval's form, and questions.

What a detector and GenEval's rules can check stays a clause: a short noun, one of ten colours, one of four relations, a
number of at most sixteen. Whatever else a clause says becomes a question, so that nothing which was asked for is lost.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inference.grounding.rule_reflection import NUMBER_WORDS, plural
from inference.judges.known_words import KnownWords
from inference.known_classes import known_classes
from inference.prompt_grammar import COLORS
from inference.requirements.atoms import atoms_of
from inference.requirements.clauses import MAX_CLAUSES, MAX_OBJECTS_OF_A_CLASS, parse_include
from inference.requirements.questions import check_question
from inference.vlm.clean_text import clean_text, json_of
from inference.vlm.strict_schema import strict_schema
from schemas.foreign_json import BadValue, check_keys, check_text, quote
from schemas.records import RELATIONS, ObjectClause, PromptRecord, Question, Reason, RequirementSource

MAX_ATOMS = 16
"""Of one prompt; what a model names beyond is left out."""
_MAX_PHRASE_CHARS = 100
_CLASS = re.compile(r"[a-z][a-z0-9'\-]*(?: [a-z0-9'\-]+){0,2}")
_MAX_CLASS_CHARS = 40
_NUMBERS = {word: number for number, word in enumerate(NUMBER_WORDS)}
_YES_NO = {"yes": "Yes", "no": "No"}
_NO_JSON: dict[Reason | None, str] = {
    Reason.EMPTY_ANSWER: "an empty answer",
    Reason.REFUSED_ANSWER: "a refusal",
    Reason.ONLY_REASONING: "thoughts without an answer",
}
_FORM = '{"include": [...], "questions": [...]}'
_SCHEMA = {
    "type": "object",
    "properties": {
        "include": {
            "type": "array",
            "maxItems": MAX_CLAUSES,
            "items": {
                "type": "object",
                "properties": {
                    "class": {"type": "string"},
                    "count": {"type": "integer", "minimum": 1, "maximum": MAX_OBJECTS_OF_A_CLASS},
                    "color": {"type": "string"},
                    "position": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "items": {"anyOf": [{"type": "string", "enum": list(RELATIONS)}, {"type": "integer"}]},
                    },
                },
                "required": ["class"],
                "additionalProperties": False,
            },
        },
        "questions": {
            "type": "array",
            "maxItems": MAX_ATOMS,
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["include", "questions"],
    "additionalProperties": False,
}


def answer_schema() -> str:
    """JSON Schema of an answer, in strict form: what an object need not say may be null."""
    return json.dumps(strict_schema(_SCHEMA))


def read_answer(answer: str, prompt: str) -> PromptRecord:
    """A record of the prompt with what an answer says that it requires; where that is nothing, with a question on all
    of it. At most `MAX_ATOMS` atoms. Raises BadValue for an answer of another form."""
    try:
        said = json_of(answer)
    except ValueError as error:
        raise BadValue(_NO_JSON.get(clean_text(answer).problem, str(error))) from None
    item = check_keys(said, "answer", ("include", "questions"))
    if not isinstance(said, dict) or not {"include", "questions"} & said.keys():
        raise BadValue(f"{quote(said)} has neither include nor questions", None, _FORM)
    include, unfit = _fit(_list(item, "include"))
    asked = [_question(entry, f"questions[{i}]") for i, entry in enumerate(_list(item, "questions"))]
    questions = _each_once([*unfit, *asked])
    return _record(prompt, include, questions)


def show_question(prompt: str) -> Question:
    """On the whole of a prompt."""
    said = prompt.strip().rstrip(".。")
    return Question(f"Does the image show: {said}" + ("" if said.endswith(("?", "？", "؟")) else "?"))


def _record(prompt: str, include: tuple[ObjectClause, ...], questions: Sequence[Question]) -> PromptRecord:
    source = RequirementSource.VLM.value
    if not include and not questions:
        note = "the VLM finds nothing in this prompt that could be checked piece by piece"
        return PromptRecord("prompt", prompt, "rule", None, (), (), (show_question(prompt),), source, note)
    record = PromptRecord("prompt", prompt, "rule", None, include, _too_many(include), tuple(questions), source)
    number = len(atoms_of(record))
    while len(atoms_of(record)) > MAX_ATOMS:
        fewer = record.include[:-1]
        if record.questions:
            record = replace(record, questions=record.questions[:-1])
        else:
            record = replace(record, include=fewer, exclude=_too_many(fewer))
    if number > MAX_ATOMS:
        record = replace(record, requirements_note=f"the first {len(atoms_of(record))} of {number} requirements")
    return record


def _too_many(include: Sequence[ObjectClause]) -> tuple[ObjectClause, ...]:
    """One more than was asked for is wrong, where a number was. Of a class that several clauses ask for nobody knows
    how many there may be."""
    named = Counter(clause.class_name for clause in include)
    counted = [clause for clause in include if clause.count > 1 and named[clause.class_name] == 1]
    return tuple(ObjectClause(clause.class_name, clause.count + 1) for clause in counted)


@dataclass
class _Named:
    """An object that an answer names. kept: its index among the clauses that stay; None for one that became a
    question."""

    words: str
    is_several: bool
    kept: int | None = None


def _fit(entries: Sequence[object]) -> tuple[tuple[ObjectClause, ...], list[Question]]:
    """The clauses that can be checked by rules, each once, and questions for what cannot. Raises BadValue."""
    named: list[_Named] = []
    kept: list[dict[str, Any]] = []
    questions: list[Question] = []
    for index, entry in enumerate(entries):
        field = f"include[{index}]"
        item = check_keys(entry, field, ("class", "count", "color", "position"))
        count = _count(item.get("count", 1), f"{field}.count")
        name = _name(item.get("class"), f"{field}.class", count)
        color = check_text(item["color"], f"{field}.color", _MAX_PHRASE_CHARS).lower() if "color" in item else None
        one = _Named(name, count > 1)
        named.append(one)
        position = _position(item["position"], f"{field}.position", index, len(entries)) if "position" in item else None
        if count == 0 or count > MAX_OBJECTS_OF_A_CLASS or not _is_class(name):
            questions.append(_is_there(name, count, color))
            color = None
        else:
            clause: dict[str, Any] = {"class": name, "count": count}
            if color in COLORS:
                clause["color"], color = color, None
            if position and position[0] in RELATIONS and (target := named[position[1]].kept) is not None:
                clause["position"], position = [position[0], target], None
            one.kept = kept.index(clause) if clause in kept else len(kept)
            kept += [] if clause in kept else [clause]
        if color is not None:
            questions.append(Question(f"{_are(one)} {color}?"))
        if position and count:
            other = named[position[1]]
            questions.append(Question(f"{_are(one)} {position[0]} the {_words(other)}?"))
    return parse_include(kept, KnownWords(None, frozenset(COLORS))), questions


def _name(value: object, field: str, count: int) -> str:
    """In the singular, without its article, lower case. Raises BadValue."""
    if value is None:
        raise BadValue("an object has no class", field, 'as in {"class": "cat"}')
    name = " ".join(check_text(value, field, _MAX_PHRASE_CHARS).lower().split())
    name = re.sub(r"^(?:an?|the) (?=.)", "", name)
    return known_classes().plurals.get(name, name) if count > 1 else name


def _is_class(name: str) -> bool:
    return len(name) <= _MAX_CLASS_CHARS and _CLASS.fullmatch(name) is not None


def _count(value: object, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        said = value.strip().lower()
        value = int(said) if re.fullmatch("[0-9]{1,4}", said) else _NUMBERS.get(said, value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9999:
        raise BadValue(f"{quote(value)} is no number of objects", field, "a whole number")
    return value


def _position(value: object, field: str, index: int, number: int) -> tuple[str, int]:
    """Relation and index of an earlier object. Raises BadValue."""
    if not isinstance(value, list) or len(value) != 2:
        raise BadValue(f"{quote(value)} is no position", field, 'as in ["left of", 0]')
    relation = " ".join(check_text(value[0], f"{field}[0]", _MAX_PHRASE_CHARS).lower().split())
    relation = re.sub(r"^(?:to|on) the (?=(?:left|right) of$)", "", relation)
    target = value[1]
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < index:
        raise BadValue(f"{quote(target)} names no earlier one of {number} objects", f"{field}[1]", "0 or more")
    return relation, target


def _is_there(name: str, count: int, color: str | None) -> Question:
    described = f"{color} {name}" if color else name
    if count == 0:
        return Question(f"Does the image show any {described}?", "No")
    if count == 1:
        article = ("an " if described[0] in "aeiou" else "a ") if "a" <= described[0] <= "z" else ""
        return Question(f"Does the image show {article}{described}?")
    number = NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else str(count)
    return Question(f"Does the image show {number} {plural(described)}?")


def _words(one: _Named) -> str:
    return plural(one.words) if one.is_several else one.words


def _are(one: _Named) -> str:
    return f"{'Are' if one.is_several else 'Is'} the {_words(one)}"


def _question(entry: object, field: str) -> Question:
    """Answered by yes, no, or a number as a word. Raises BadValue."""
    item = check_keys(entry, field, ("question", "answer"))
    if "question" not in item:
        raise BadValue("no question is asked", f"{field}.question", 'as in {"question": "Is the fox writing?"}')
    question = check_question(item["question"], item.get("answer", "Yes"), None, f"{field}.question", f"{field}.answer")
    answer = question.answer.rstrip(" .!").lower()
    if answer.isdecimal() and int(answer) < len(NUMBER_WORDS):
        answer = NUMBER_WORDS[int(answer)] if int(answer) else "zero"
    if answer in _YES_NO:
        return replace(question, answer=_YES_NO[answer])
    if answer in _NUMBERS or answer == "zero":
        return replace(question, answer=answer)
    raise BadValue(f"the answer {quote(question.answer)} is neither yes nor no nor a number", f"{field}.answer", "Yes")


def _each_once(questions: Sequence[Question]) -> list[Question]:
    """The first of each text: case does not count."""
    found: dict[str, Question] = {}
    for question in questions:
        found.setdefault(question.text.lower(), question)
    return list(found.values())


def _list(item: Mapping[str, Any], key: str) -> list[object]:
    value = item.get(key, [])
    if not isinstance(value, list):
        raise BadValue(f"{quote(value)} is no list", key, "a list, which may be empty")
    return value
