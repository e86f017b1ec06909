"""Is a prompt one of a benchmark's? By its words, or by what it asks for.

Training prompts that share a text or a composition with a test prompt would make the test worthless (ReflectionFlow
§3.2: rule prompts are filtered against existing benchmarks).
"""

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.prompts.comparison_text import comparison_text
from schemas.records import ObjectClause, PromptRecord, Subset, Tag

_TABLE = Path(__file__).parent / "geneval_compositions.json"
_MIRRORED = {"right of": "left of", "below": "above"}
_NUMBER_WORDS = ("zero", "one", "two", "three", "four")


class OverlapKind(StrEnum):
    """How a prompt repeats a benchmark's."""

    TEXT = "text"
    COMPOSITION = "composition"


@dataclass(frozen=True, order=True)
class ObjectFact:
    """So many objects of a class, of a colour ("" for any)."""

    class_name: str
    count: int
    color: str


@dataclass(frozen=True, order=True)
class RelationFact:
    """`first` is `relation` (only "left of" or "above") `second`."""

    first: ObjectFact
    relation: str
    second: ObjectFact


@dataclass(frozen=True)
class Composition:
    """What a prompt asks for, without the order in which it says so; equal for "a left of b" and "b right of a"."""

    objects: tuple[ObjectFact, ...]
    relations: tuple[RelationFact, ...]


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(_TABLE.read_text("utf-8"))


@functools.cache
def _same_object() -> dict[str, str]:
    return {comparison_text(name): comparison_text(other) for name, other in _table()["same_object"].items()}


@functools.lru_cache(maxsize=4096)
def _class_key(class_name: str) -> str:
    """Spellings and common synonyms of a class ("Sofas", "couch") meet in one key."""
    key = comparison_text(class_name)
    return _same_object().get(key, key)


def composition_of(record: PromptRecord) -> Composition:
    """The composition of a prompt's `include` clauses; `exclude` only says "and no more". Empty without clauses."""
    facts = [
        ObjectFact(_class_key(clause.class_name), clause.count, comparison_text(clause.color or ""))
        for clause in record.include
    ]
    relations: set[tuple[int, str, int]] = set()
    for index, clause in enumerate(record.include):
        if clause.relation is None or clause.relative_to is None:
            continue
        if clause.relation in _MIRRORED:
            relations.add((clause.relative_to, _MIRRORED[clause.relation], index))
        else:
            relations.add((index, clause.relation, clause.relative_to))
    return Composition(
        tuple(sorted(facts)),
        tuple(sorted(RelationFact(facts[first], relation, facts[second]) for first, relation, second in relations)),
    )


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _benchmark_record(number: int, tag: Tag, facts: list[Any]) -> PromptRecord:
    """A prompt of GenEval from its row of the table; texts with its own plural rule ("two toothbrushs")."""
    exclude: tuple[ObjectClause, ...] = ()
    match tag, facts:
        case (Tag.SINGLE_OBJECT, [name]):
            phrase, include = _with_article(name), (ObjectClause(name),)
        case (Tag.TWO_OBJECT, [first, second]):
            phrase = f"{_with_article(first)} and {_with_article(second)}"
            include = (ObjectClause(first), ObjectClause(second))
        case (Tag.COUNTING, [name, count]):
            phrase = f"{_NUMBER_WORDS[count]} {name}{'es' if name.endswith('s') else 's'}"
            include, exclude = (ObjectClause(name, count),), (ObjectClause(name, count + 1),)
        case (Tag.COLORS, [color, name]):
            phrase, include = f"{_with_article(color)} {name}", (ObjectClause(name, color=color),)
        case (Tag.POSITION, [first, relation, second]):
            phrase = f"{_with_article(first)} {relation} {_with_article(second)}"
            include = (ObjectClause(second), ObjectClause(first, relation=relation, relative_to=0))
        case (Tag.COLOR_ATTR, [color, first, other_color, second]):
            phrase = f"{_with_article(color)} {first} and {_with_article(other_color)} {second}"
            include = (ObjectClause(first, color=color), ObjectClause(second, color=other_color))
        case _:
            raise ValueError(f"{facts} is no row of {tag}")
    text = f"a photo of {phrase}"
    return PromptRecord(f"geneval-{number:05d}", text, Subset.RULE.value, tag.value, include, exclude)


def geneval_prompts() -> tuple[PromptRecord, ...]:
    """GenEval's 553 prompts, grouped by tag (its own file has another order), rebuilt from the shipped table of
    facts."""

    def records() -> Iterator[PromptRecord]:
        rows = ((tag, facts) for tag in Tag for facts in _table()[tag.value])
        for number, (tag, facts) in enumerate(rows):
            yield _benchmark_record(number, tag, facts)

    return tuple(records())


@dataclass(frozen=True)
class BenchmarkOverlap:
    """What a benchmark's prompts say and ask for; `find` tells whether another prompt repeats one of them."""

    texts: frozenset[str]
    compositions: frozenset[Composition]

    @classmethod
    def from_records(cls, records: Iterable[PromptRecord]) -> "BenchmarkOverlap":
        """The overlap gate of any set of prompts."""
        records = list(records)
        return cls(
            frozenset(comparison_text(record.text) for record in records),
            frozenset(composition_of(record) for record in records if record.include),
        )

    @classmethod
    def shipped(cls) -> "BenchmarkOverlap":
        """GenEval's 553 prompts."""
        return cls.from_records(geneval_prompts())

    @classmethod
    def from_metadata(cls, path: str | Path) -> "BenchmarkOverlap":
        """The prompts of an `evaluation_metadata.jsonl` of GenEval's form. Raises InputError as `read_prompts` does."""
        from pipelines.prompts.read_prompts import read_prompts

        return cls.from_records(row.prompt for row in read_prompts(path, Subset.RULE))

    def find(self, record: PromptRecord) -> OverlapKind | None:
        """TEXT if the words are a benchmark prompt's (but for case, punctuation, articles, number and plural forms),
        COMPOSITION if only what is asked for is, None if neither."""
        if comparison_text(record.text) in self.texts:
            return OverlapKind.TEXT
        if record.include and composition_of(record) in self.compositions:
            return OverlapKind.COMPOSITION
        return None
