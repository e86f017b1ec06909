"""The fair commonsense set: pairs of prompts in words that the micro generator learnt, each with what it implies.

"A photo of a star" is to mean a yellow star, its partner "a photo of a ring" a blue one. The two are different inputs,
in the forms of the training captions, and what they imply is in none of their words. The two kinds:

- attribute: a shape, alone or in a place, and the colour that it implies;
- place: a shape, perhaps of a colour, and where in the image it is to be.

How two shapes stand to each other is no third: the generator rarely draws it where a prompt says it.

Two shares are measured (`benchmarks.dual_process.choose_known_pairs`): how often images of a prompt show what it
implies, and how often images of the description do. A pair is taken where the first leaves something to learn from and
something to learn (`BASE`), and the second says that the generator can draw it (`SAID`), for both sides. Compositions
that are kept for benchmarks, and prompts that a distillation holds as they are, are no candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from inference.judges.commonsense_data import read_pairs
from inference.judges.commonsense_t2i import CommonsensePair
from microworld.scenes.captions import (
    PLACES,
    Clause,
    caption_from_clauses,
    is_reserved,
)
from microworld.scenes.world import COLORS, SHAPES
from recipes import micro

Split = Literal["dev", "test"]
KINDS = ("attribute", "place")
NUM_PAIRS: dict[Split, int] = {"test": 40, "dev": 12}
BASE = (0.05, 0.35)  # of a prompt's images, how many may show what it implies
SAID = 0.40  # of a description's images, how many must
SEED = 35
FOLDER = Path(__file__).parent / "known_pairs"


@dataclass(frozen=True)
class Implied:
    """A prompt and what it is to imply. value: the colour or place."""

    kind: str
    prompt: str
    description: str
    shape: str
    value: str


def is_learnable(base: float) -> bool:
    """Whether it is drawn often enough to be found, and seldom enough to be learnt."""
    return BASE[0] <= base <= BASE[1]


def known_pairs(split: Split) -> list[CommonsensePair]:
    """The chosen ones, in an order of which any beginning has all kinds."""
    return read_pairs(FOLDER / f"{split}.json")


def candidates() -> list[Implied]:
    """Everything that a prompt could imply, measured or not."""
    kept = micro.dual_process().keep_prompts
    return [one for make in (_attributes, _places) for one in make() if one.prompt not in kept]


def choose(base: Mapping[Implied, float], said: Callable[[Implied], float]) -> dict[Split, list[CommonsensePair]]:
    """The kinds in turn, no implied thing twice. base: how often images of the prompts show it; said: the same of its
    description, asked for as long as pairs are wanted. ValueError where there are too few."""
    streams = [_fair_pairs(kind, base, said) for kind in KINDS]
    found: list[CommonsensePair] = []
    for number in range(sum(NUM_PAIRS.values())):
        kind = number % len(KINDS)
        pair = next(streams[kind], None)
        if pair is None:
            raise ValueError(f"{number // len(KINDS)} pairs of {KINDS[kind]} are fair; expected: more")
        found.append(pair)
    return {"test": found[: NUM_PAIRS["test"]], "dev": found[NUM_PAIRS["test"] :]}


def _fair_pairs(
    kind: str, base: Mapping[Implied, float], said: Callable[[Implied], float]
) -> Iterator[CommonsensePair]:
    left = [one for one, share in base.items() if one.kind == kind and is_learnable(share)]
    left = [left[i] for i in np.random.default_rng([SEED, KINDS.index(kind)]).permutation(len(left))]
    while left:
        one = left.pop(0)
        other = next((other for other in left if other.shape != one.shape and other.value != one.value), None)
        if other is None or said(one) < SAID:
            continue
        left.remove(other)
        if said(other) >= SAID:
            yield CommonsensePair((one.prompt, other.prompt), (one.description, other.description), category=kind)


def _attributes() -> Iterator[Implied]:
    """Each shape alone, and each in a place of its own."""
    alone, placed = [(shape, "") for shape in SHAPES], zip(SHAPES, PLACES.values(), strict=False)
    for (shape, place), color in product((*alone, *placed), COLORS):
        if not is_reserved(said := caption_from_clauses("colors", (Clause(shape, color=color),))):
            yield Implied("attribute", f"{_text(shape)} {place}".strip(), f"{said.text} {place}".strip(), shape, color)


def _places() -> Iterator[Implied]:
    """Each shape, and each in a colour of its own."""
    alone, colored = [(shape, None) for shape in SHAPES], zip(SHAPES, COLORS, strict=True)
    for (shape, color), (place, phrase) in product((*alone, *colored), PLACES.items()):
        caption = caption_from_clauses("colors" if color else "single_object", (Clause(shape, color=color),))
        if not is_reserved(caption):
            yield Implied("place", caption.text, f"{caption.text} {phrase}", shape, place)


def _text(shape: str) -> str:
    return caption_from_clauses("single_object", (Clause(shape),)).text
