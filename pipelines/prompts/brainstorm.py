"""A vocabulary from a language model: objects and colours, asked for a few at a time (ReflectionFlow's first step).

Whoever opens the model keeps its answers (`inference.vlm.journal`), so that a brainstorm which was interrupted
continues, and one that is repeated gives the same vocabulary without a request.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from inference.interfaces import ChatRequest, Vlm
from inference.requirements.clauses import MAX_OBJECTS_OF_A_CLASS
from inference.vlm.clean_text import json_of
from pipelines.prompts.comparison_text import comparison_text
from pipelines.prompts.vocabulary import (
    PAIR_ARTICLE,
    ObjectClass,
    Vocabulary,
    check_name,
    parse_class,
)
from schemas.errors import InputError, WorkFailedError
from schemas.foreign_json import BadValue, quote, safe_text

T = TypeVar("T")

_SYSTEM = "You write word lists for image prompts. You answer with JSON only."
_ANOTHER_MODEL = (
    "ask a language model of some size, at an address, that holds answers to a JSON schema; or leave more room for an "
    "answer, or ask for fewer objects at once"
)
_OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "plural": {"type": "string"},
        "article": {"type": "string", "enum": ["a", "an", PAIR_ARTICLE]},
    },
    "required": ["name", "plural", "article"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class BrainstormConfig:
    """What is asked for."""

    topic: str = "common everyday objects: animals, food, tools, furniture, vehicles, clothes, toys, instruments"
    """What the objects have in common."""
    num_objects: int = 300
    """Different kinds of objects."""
    objects_per_request: int = 50
    """Asked for at once."""
    num_colors: int = 10
    """Different colours."""
    colors: tuple[str, ...] = ()
    """These instead of asking: where the checker knows only some."""
    max_count: int = 4
    """Objects of one kind that a prompt may ask for."""
    max_attempts: int = 4
    """Tries of one question before an answer brings something new that can be used."""


@dataclass(frozen=True)
class TurnedDown:
    """Something that the model named and that is no part of the vocabulary. key: objects or colors."""

    key: str
    name: str
    why: str


@dataclass(frozen=True)
class Brainstormed:
    """The vocabulary, what was turned down on the way, and how many answers were read."""

    vocabulary: Vocabulary
    turned_down: tuple[TurnedDown, ...]
    num_answers: int


def brainstorm_vocabulary(
    config: BrainstormConfig, vlm: Vlm, model: str, progress: Callable[[str], None] = lambda line: None
) -> Brainstormed:
    """Ask for objects, a few at a time, until there are `config.num_objects` different ones, and for colours.

    model: what errors call it; progress: gets a line an answer. Names that differ only in number or spelling count
    once. Raises InputError (senseless sizes), WorkFailedError (no usable answer, or nothing new before there are
    enough), and what the model raises.
    """
    _check(config)
    asker = _Asker(config, vlm, model, progress)
    num = config.num_objects
    classes = asker.collect("objects", num, num, lambda found: _objects_request(config, found))
    colors = config.colors
    if not colors:
        colors = asker.collect("colors", 2, config.num_colors, lambda found: _colors_request(config, found))
    vocabulary = Vocabulary(tuple(classes), tuple(colors), max_count=config.max_count)
    return Brainstormed(vocabulary, tuple(asker.turned_down), asker.num_answers)


def _check(config: BrainstormConfig) -> None:
    for field, least in (("num_objects", 2), ("objects_per_request", 2), ("num_colors", 2), ("max_attempts", 1)):
        if (value := getattr(config, field)) < least:
            raise InputError(f"{value} is too small", field=field, expected=f"{least} or more")
    if not 2 <= config.max_count <= MAX_OBJECTS_OF_A_CLASS:
        raise InputError(f"a count of {config.max_count}", field="max_count", expected=f"2 to {MAX_OBJECTS_OF_A_CLASS}")
    try:
        colors = {check_name(color, "colors") for color in config.colors}
    except BadValue as bad:
        raise InputError(bad.problem, field=bad.field, expected=bad.expected) from None
    if config.colors and not 2 <= len(colors) == len(config.colors):
        raise InputError(" ".join(config.colors), field="colors", expected="at least two, each once; or none")


class _Asker:
    """Asks one model, and remembers what it named in vain."""

    def __init__(self, config: BrainstormConfig, vlm: Vlm, model: str, progress: Callable[[str], None]) -> None:
        self._config, self._vlm, self._model, self._progress = config, vlm, model, progress
        self.turned_down: list[TurnedDown] = []
        self.num_answers = 0

    def collect(self, key: str, least: int, most: int, request: Callable[[list[str]], ChatRequest]) -> list[Any]:
        """So many different entries of the lists that are called `key`. request: the question, after what is found."""
        found: dict[str, Any] = {}
        while len(found) < least:
            self._ask(key, request([_name(entry) for entry in found.values()]), found, most)
            self._progress(f"{key}: {len(found)} of {most} after {self.num_answers} answers")
        return list(found.values())

    def _ask(self, key: str, request: ChatRequest, found: dict[str, Any], most: int) -> None:
        """Add what is new in the first answer that has anything new."""
        num_before, problem, said = len(found), "", ""
        for attempt in range(self._config.max_attempts):
            # Sampled after the first: the same answer would only come again.
            (answer,) = self._vlm.answer([replace(request, attempt=attempt)])
            self.num_answers += 1
            said = answer.text
            try:
                problem = self._take(key, _list_of(said, key), found, most)
            except BadValue as bad:
                problem = bad.problem
            if len(found) > num_before:
                return
            if not answer.finished:
                problem += f"; the answer was cut off after {answer.num_tokens} tokens"
            self._progress(f"{key}: answer {self.num_answers} has nothing that can be used: {problem}")
        raise WorkFailedError(
            f"{self._model} "
            + (f"named only {num_before} different {key} of {most}" if found else f"gave no usable list of {key}")
            + f", and nothing new in {self._config.max_attempts} tries\n"
            f"  last problem: {problem}\n"
            f"  it said: {safe_text(said)!r}\n  what to do: "
            + (f"ask for fewer {key}, name a wider topic, or ask another model" if found else _ANOTHER_MODEL)
        )

    def _take(self, key: str, entries: Iterable[Any], found: dict[str, Any], most: int) -> str:
        """What can be used and is new goes into `found`. Returns what was wrong with the last of the others."""
        why = f"the list of {key} is empty"
        for entry in entries:
            try:
                parsed = _parse_object(entry) if key == "objects" else check_name(_lower(entry), "color")
            except BadValue as bad:
                named = entry.get("name", entry) if isinstance(entry, dict) else entry
                name, why = safe_text(str(named), 60), bad.problem
            else:
                name, same = _name(parsed), comparison_text(_name(parsed))
                if same not in found and len(found) < most:
                    found[same] = parsed
                    continue
                already = f"named already, as {_name(found[same])!r}" if same in found else ""
                why = already or f"more than the {most} {key} that were asked for"
            self.turned_down.append(TurnedDown(key, name, why))
        return why


def _objects_request(config: BrainstormConfig, known: list[str]) -> ChatRequest:
    num = min(config.objects_per_request, config.num_objects - len(known))
    text = (
        f"Topic: {config.topic}.\n"
        f"Name {num} kinds of countable objects of this topic that can be recognised in photos and told apart. "
        "For each give the singular name in lower case (1 to 3 words, no brand names, no colours), its correct plural, "
        f'and the article: "a", "an", or "{PAIR_ARTICLE}" for things like scissors.\n'
    )
    if known:
        text += f"Leave out these and their synonyms: {', '.join(known)}.\n"
    text += 'Form: {"objects": [{"name": "goose", "plural": "geese", "article": "a"}]}'
    return _request(text, "objects", _OBJECT)


def _colors_request(config: BrainstormConfig, known: list[str]) -> ChatRequest:
    text = (
        f"Name the {config.num_colors} basic colours that are easiest to tell apart in photos, "
        "each one lower-case English word.\n"
    )
    if known:
        text += f"Leave out {', '.join(known)}.\n"
    text += 'Form: {"colors": ["red"]}'
    return _request(text, "colors", {"type": "string"})


def _request(text: str, key: str, item: dict[str, Any]) -> ChatRequest:
    """An answer's only property is `key`, a list of `item`."""
    schema = {
        "type": "object",
        "properties": {key: {"type": "array", "items": item}},
        "required": [key],
        "additionalProperties": False,
    }
    return ChatRequest(text, system=_SYSTEM, json_schema=json.dumps(schema))


def _list_of(answer: str, key: str) -> list[Any]:
    """The list in an answer, whatever stands around it. Raises BadValue."""
    try:
        value = json_of(answer)
    except ValueError as error:
        raise BadValue(str(error)) from None
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise BadValue(f"no list {key!r} in {quote(value)}")
    return value[key]


def _lower(value: Any) -> Any:
    return " ".join(value.lower().split()) if isinstance(value, str) else value


def _name(entry: ObjectClass | str) -> str:
    return entry if isinstance(entry, str) else entry.name


def _parse_object(entry: Any) -> ObjectClass:
    if isinstance(entry, dict):
        entry = {key: _lower(value) for key, value in entry.items() if key in _OBJECT["properties"]}
    cls = parse_class(entry, "object")
    by_first_letter = "an" if cls.name[0] in "aeiou" else "a"
    return ObjectClass(cls.name, cls.plural, None if cls.article == by_first_letter else cls.article)
