"""Prompts composed by rule from a vocabulary, in GenEval's six tags and with its machine-checkable clauses.

The space of every kind of prompt is walked in a random order of its own; kinds take turns by weight. Both depend on the
seed alone, so more prompts begin with the same prompts as fewer.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.prompts.overlap import BenchmarkOverlap, OverlapKind
from pipelines.prompts.prompt_kinds import Kind, prompt_kinds
from pipelines.prompts.vocabulary import Vocabulary
from pipelines.prompts.wording import photo_of
from schemas.errors import InputError
from schemas.records import PromptRecord, RequirementSource, Subset

_COUNTABLE_TOTAL = 1_000_000  # up to here the exact maximum is found by composing everything


@dataclass(frozen=True)
class TagWeights:
    """How often each kind of prompt is drawn; 0 leaves it out. A kind that is exhausted leaves its turns to the rest.

    Two kinds are no part of GenEval: `counting_with_color` ("a photo of two red circles", tag counting) and
    `position_with_color` ("a photo of a red circle left of a blue star", tag position), which is left out unless asked
    for.
    """

    single_object: float = 1.0
    """"a photo of a bench"."""
    two_object: float = 1.0
    """"a photo of a bench and a goose"."""
    counting: float = 1.0
    """"a photo of three geese"."""
    colors: float = 1.0
    """"a photo of a blue bench"."""
    position: float = 1.0
    """"a photo of a bench left of a goose"."""
    color_attr: float = 1.0
    """"a photo of a blue bench and a white goose"."""
    counting_with_color: float = 0.5
    """"a photo of three white geese"."""
    position_with_color: float = 0.0
    """"a photo of a blue bench left of a white goose"."""


@dataclass(frozen=True)
class ComposedPrompts:
    """The prompts, and how many compositions were passed over on the way, by what they repeated."""

    prompts: tuple[PromptRecord, ...]
    num_removed_as_overlap_by_text: int
    num_removed_by_composition: int
    num_removed_as_reserved: int = 0


def count_compositions(vocabulary: Vocabulary) -> dict[str, int]:
    """How many prompts of each kind (the fields of `TagWeights`) the vocabulary gives at most, overlaps included."""
    return {kind.name: kind.size for kind in prompt_kinds(vocabulary)}


def _shuffled(size: int, rng: random.Random) -> Iterator[int]:
    """0 .. size-1 in random order, in memory that grows with what was taken (Fisher-Yates on a sparse array)."""
    moved: dict[int, int] = {}
    for position in range(size):
        other = rng.randrange(position, size)
        here = moved.pop(position, position)
        if other == position:
            yield here
        else:
            yield moved.get(other, other)
            moved[other] = here


class _Gate:
    """Lets a prompt through once, unless a benchmark or somebody's reservation has it; counts what it turns down."""

    def __init__(self, overlap: BenchmarkOverlap | None, reserved: Callable[[PromptRecord], bool] | None) -> None:
        self._overlap, self._reserved = overlap, reserved
        self._texts: set[str] = set()
        self.num_by_text = self.num_by_composition = self.num_reserved = 0

    def lets_through(self, record: PromptRecord) -> bool:
        if record.text in self._texts:  # possible where a class is called like another with a colour
            return False
        self._texts.add(record.text)
        match self._overlap and self._overlap.find(record):
            case OverlapKind.TEXT:
                self.num_by_text += 1
            case OverlapKind.COMPOSITION:
                self.num_by_composition += 1
            case _ if self._reserved is not None and self._reserved(record):
                self.num_reserved += 1
            case _:
                return True
        return False


def _compose(kinds: list[Kind], weights: dict[str, float], seed: int, gate: _Gate) -> Iterator[PromptRecord]:
    """Every prompt that passes the gate. The next kind is the one furthest behind its weight (Sainte-Laguë's rule,
    which stays proportional when kinds drop out), so that any run of consecutive prompts is mixed."""
    walks = {kind.name: _shuffled(kind.size, random.Random(f"{seed}/{kind.name}")) for kind in kinds}
    taken = {kind.name: 0 for kind in kinds}
    number = 0
    while kinds:
        kind = min(kinds, key=lambda kind: (taken[kind.name] + 0.5) / weights[kind.name])
        for index in walks[kind.name]:
            if (draft := kind.compose(index)) is None:
                continue
            record = PromptRecord(
                f"rule-{number:06d}",
                photo_of(draft.phrase),
                Subset.RULE.value,
                draft.tag.value,
                draft.include,
                draft.exclude,
                requirements_from=RequirementSource.GRAMMAR.value,
            )
            if gate.lets_through(record):
                taken[kind.name] += 1
                number += 1
                yield record
                break
        else:
            kinds = [other for other in kinds if other is not kind]


def _checked_weights(weights: TagWeights) -> dict[str, float]:
    values = dataclasses.asdict(weights)
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"a weight of {value}", field=f"tag_weights.{name}", expected="a finite number, 0 or more")
    if not any(values.values()):
        raise InputError("all weights are 0", field="tag_weights", expected="at least one above 0")
    return values


def _too_many(num_prompts: int, maximum: str) -> InputError:
    return InputError(
        f"{num_prompts} prompts were asked for; the vocabulary gives {maximum}",
        field="num_prompts",
        expected=f"{maximum}, or a larger vocabulary, or weights above 0 for more tags",
    )


def compose_prompts(
    vocabulary: Vocabulary,
    num_prompts: int,
    seed: int,
    overlap: BenchmarkOverlap | None,
    tag_weights: TagWeights = TagWeights(),
    reserved: Callable[[PromptRecord], bool] | None = None,
) -> ComposedPrompts:
    """`num_prompts` different prompts with ids `rule-000000` onwards, none of which `overlap` or `reserved` knows.

    The same seed gives the same prompts, and the first of many are the same as few. Raises InputError, saying the
    maximum, where the vocabulary does not give as many.
    """
    weights = _checked_weights(tag_weights)
    if num_prompts < 1:
        raise InputError(f"{num_prompts} prompts were asked for", field="num_prompts", expected="1 or more")
    kinds = [kind for kind in prompt_kinds(vocabulary) if weights[kind.name] > 0]
    most = sum(kind.size for kind in kinds)
    if num_prompts > most > _COUNTABLE_TOTAL:
        raise _too_many(num_prompts, f"less than {most}")
    gate = _Gate(overlap, reserved)
    prompts = tuple(itertools.islice(_compose(kinds, weights, seed, gate), num_prompts))
    if len(prompts) < num_prompts:
        raise _too_many(num_prompts, f"{len(prompts)} at most")
    return ComposedPrompts(prompts, gate.num_by_text, gate.num_by_composition, gate.num_reserved)
