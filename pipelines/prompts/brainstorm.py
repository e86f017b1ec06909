"""A vocabulary from a language model: objects and colours by any OpenAI-compatible endpoint, asked once and cached.

The answers are kept on disk by the hash of what was asked before they are used, so that a brainstorm which was
interrupted continues, and one that is repeated gives the same vocabulary without a request.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.prompts.atomic_file import write_atomically
from pipelines.prompts.checked_json import BadValue, parse_json, quote, safe_text
from pipelines.prompts.comparison_text import comparison_text
from pipelines.prompts.vocabulary import PAIR_ARTICLE, ObjectClass, Vocabulary, check_name, parse_class
from schemas.arrow import canonical_json
from schemas.errors import InputError, OutageError, WorkFailedError

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")

_log = logging.getLogger(__name__)
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
    """Whom to ask for what. The API key comes from OPENAI_API_KEY."""

    model: str
    base_url: str | None = None  # None: OpenAI's own
    topic: str = "common everyday objects: animals, food, tools, furniture, vehicles, clothes, toys, instruments"
    num_objects: int = 300
    objects_per_request: int = 50
    colors: tuple[
        str, ...
    ] = ()  # empty: the model is asked for `num_colors`; name them where the checker knows only some
    num_colors: int = 10
    max_count: int = 4
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = 4096
    max_reasks: int = 3  # more tries after an answer that cannot be used, or after one with nothing new
    max_retries: int = 5  # more tries, with growing pauses, after 429, 5xx and time-outs
    timeout_s: float = 120.0


@dataclass(frozen=True)
class _Question:
    """One request; the schema's only property is `key`, a list of `item`."""

    text: str
    key: str
    item: dict[str, Any]
    seed: int

    def payload(self, config: BrainstormConfig) -> dict[str, Any]:
        schema = {
            "type": "object",
            "properties": {self.key: {"type": "array", "items": self.item}},
            "required": [self.key],
            "additionalProperties": False,
        }
        return {
            "model": config.model,
            "messages": [
                {
                    "role": "system",
                    "content": "You write word lists for image prompts. You answer with JSON only.",
                },
                {"role": "user", "content": self.text},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": self.key, "schema": schema, "strict": True},
            },
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "seed": self.seed,
        }


def _objects_question(config: BrainstormConfig, num: int, known: list[str], seed: int) -> _Question:
    text = (
        f"Topic: {config.topic}.\n"
        f"Name {num} kinds of countable objects of this topic that can be recognised in photos and told apart. "
        "For each give the singular name in lower case (1 to 3 words, no brand names, no colours), its correct plural, "
        f'and the article: "a", "an", or "{PAIR_ARTICLE}" for things like scissors.\n'
    )
    if known:
        text += f"Leave out these and their synonyms: {', '.join(known)}.\n"
    text += 'Form: {"objects": [{"name": "goose", "plural": "geese", "article": "a"}]}'
    return _Question(text, "objects", _OBJECT, seed)


def _colors_question(config: BrainstormConfig) -> _Question:
    text = (
        f"Name the {config.num_colors} basic colours that are easiest to tell apart in photos, "
        'each one lower-case English word.\nForm: {"colors": ["red"]}'
    )
    return _Question(text, "colors", {"type": "string"}, config.seed)


def _list_of(answer: str, key: str) -> list[Any]:
    value = parse_json(answer)
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise BadValue(f"no list {key!r} in {quote(value)}")
    return value[key]


def _usable(answer: str, key: str, parse: Callable[[Any], T]) -> list[T]:
    """The entries that can be used; entries that cannot are left out, an answer of nothing else raises BadValue."""
    usable, problems = [], []
    for entry in _list_of(answer, key):
        try:
            usable.append(parse(entry))
        except BadValue as bad:
            problems.append(bad.problem)
    if problems:
        _log.info("left out %d of the %s named, e.g.: %s", len(problems), key, problems[0])
    if not usable:
        raise BadValue(f"no usable {key}" + (f": {problems[0]}" if problems else ""))
    return usable


def _lower(value: Any) -> Any:
    return " ".join(value.lower().split()) if isinstance(value, str) else value


def _parse_object(entry: Any) -> ObjectClass:
    if isinstance(entry, dict):
        entry = {key: _lower(value) for key, value in entry.items() if key in _OBJECT["properties"]}
    cls = parse_class(entry, "object")
    by_first_letter = "an" if cls.name[0] in "aeiou" else "a"
    return ObjectClass(cls.name, cls.plural, None if cls.article == by_first_letter else cls.article)


def _parse_color(entry: Any) -> str:
    return check_name(_lower(entry), "color")


class _Brainstormer:
    def __init__(self, config: BrainstormConfig, cache_dir: Path) -> None:
        self._config, self._cache_dir = config, cache_dir
        self._client: OpenAI | None = None

    def ask(self, question: _Question, parse: Callable[[Any], T]) -> list[T]:
        """The usable entries of the cached answer, or of a new one."""
        payload = question.payload(self._config)
        digest = hashlib.sha256(canonical_json(payload).encode()).hexdigest()
        path = self._cache_dir / digest[:2] / f"{digest}.json"
        try:
            return _usable(parse_json(path.read_text("utf-8"))["answer"], question.key, parse)
        except (FileNotFoundError, UnicodeDecodeError, BadValue, KeyError, TypeError):
            pass  # never asked, or an answer that does not read: ask
        last = BadValue("never asked")
        for attempt in range(self._config.max_reasks + 1):
            answer = None
            try:
                # Another seed each time: a deterministic server would only repeat its broken answer.
                answer = self._complete({**payload, "seed": question.seed + 1000 * attempt})
                entries = _usable(answer, question.key, parse)
            except BadValue as bad:
                last = bad
                _log.warning("%s: unusable answer %d: %s", self._config.model, attempt + 1, bad.problem)
                continue
            write_atomically(path, json.dumps({"payload": payload, "answer": answer}, ensure_ascii=False, indent=1))
            return entries
        raise WorkFailedError(
            f"{self._config.model} gave no usable list of {question.key} in {self._config.max_reasks + 1} tries\n"
            f"  last problem: {last.problem}\n"
            "  what to do: another model, a server that honours JSON schemas, or a larger max_tokens"
        )

    def _connect(self) -> "OpenAI":
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY")
        if not key and self._config.base_url is None:
            raise InputError("no API key", field="OPENAI_API_KEY", expected="a key in the environment, or a base_url")
        return OpenAI(
            api_key=key or "none",  # servers of one's own ask for none, but the client insists
            base_url=self._config.base_url,
            max_retries=self._config.max_retries,
            timeout=self._config.timeout_s,
        )

    def _complete(self, payload: dict[str, Any]) -> str:
        """The text of one chat completion. Raises BadValue where the response has none."""
        import openai

        self._client = client = self._client or self._connect()
        where = self._config.base_url or "OpenAI"
        try:
            body = client.chat.completions.with_raw_response.create(**payload).text
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(f"{where} refused the key: {error}", field="OPENAI_API_KEY") from None
        except openai.NotFoundError as error:
            raise InputError(f"{where} has no such model or path: {error}", field="model") from None
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            raise OutageError(
                f"{where} did not answer in {self._config.max_retries + 1} tries: {safe_text(str(error))}\n"
                "  what to do: run the same command later; answers so far are kept and not asked for again"
            ) from None
        except openai.APIStatusError as error:
            raise WorkFailedError(f"{where} turned the request down: {safe_text(str(error), 400)}") from None
        try:
            content = parse_json(body)["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise BadValue(f"no chat completion: {quote(body)}") from None
        if not isinstance(content, str):
            raise BadValue(f"the message has no text: {quote(content)}")
        return content


def brainstorm_vocabulary(config: BrainstormConfig, cache_dir: str | Path) -> Vocabulary:
    """Ask for objects, a few at a time, until there are `config.num_objects` different ones, and for colours.

    Names that differ only in number or spelling count once. Raises InputError (no key, unknown model), OutageError (the
    endpoint stays away), WorkFailedError (no usable answer, or the model names nothing new before there are enough).
    """
    for field in ("num_objects", "objects_per_request", "num_colors"):
        if (value := getattr(config, field)) < 2:
            raise InputError(f"{value} is too small", field=field, expected="2 or more")
    brainstormer = _Brainstormer(config, Path(cache_dir))
    found: dict[str, ObjectClass] = {}
    asked = fruitless = 0
    while len(found) < config.num_objects:
        num = min(config.objects_per_request, config.num_objects - len(found))
        known = [cls.name for cls in found.values()]
        before = len(found)
        for cls in brainstormer.ask(_objects_question(config, num, known, config.seed + asked), _parse_object):
            found.setdefault(comparison_text(cls.name), cls)
        asked += 1
        fruitless = fruitless + 1 if len(found) == before else 0
        if fruitless > config.max_reasks:
            raise WorkFailedError(
                f"{config.model} named only {len(found)} different objects of {config.num_objects}\n"
                "  what to do: a smaller num_objects, a wider topic, or another model"
            )
    colors = config.colors or tuple(dict.fromkeys(brainstormer.ask(_colors_question(config), _parse_color)))
    return Vocabulary(tuple(found.values())[: config.num_objects], colors, max_count=config.max_count)
