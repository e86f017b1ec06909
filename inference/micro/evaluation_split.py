"""The fixed evaluation split of the micro world: 240 dev and 480 test prompts, 40 and 80 of each of the six tags.

Compositions come from the reserved ones alone (`captions.is_reserved`), divided between dev and test by a second hash
(a third to dev) so that the two share none. Few are reserved (6 pairs of objects, 9 coloured objects, 18 positions), so
the same text comes again under another id, which means another seed, wherever a tag has fewer distinct texts than
prompts. Single objects (8) and counts (24) are too few to reserve any: dev, test and training have the same texts
there, told apart by their seeds only.

`test_prompts` is for final figures; choices are made on `dev_prompts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import permutations, product

from inference.micro.captions import (
    RELATIONS,
    TAGS,
    Caption,
    Clause,
    caption_from_clauses,
    composition,
    is_reserved,
)
from inference.micro.world import COLORS, MAX_OBJECTS, SHAPES
from inference.prompt_grammar import parse_prompt
from schemas.records import PromptRecord

DEV_PER_TAG, TEST_PER_TAG = 40, 80
UNRESERVED_TAGS = ("single_object", "counting")


def dev_prompts() -> tuple[PromptRecord, ...]:
    """240 prompts, "micro-dev-00000" onwards, tag by tag."""
    return _prompts("dev", DEV_PER_TAG)


def test_prompts() -> tuple[PromptRecord, ...]:
    """480 prompts, "micro-test-00000" onwards, tag by tag. Sealed: nothing is chosen by them."""
    return _prompts("test", TEST_PER_TAG)


# pytest would otherwise take the function for a test wherever it is imported.
test_prompts.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def evaluation_seed(prompt_id: str) -> int:
    """The base seed of a prompt's images, in [0, 2**48): image i of the prompt has seed base + i."""
    return int.from_bytes(hashlib.blake2b(f"seed:{prompt_id}".encode(), digest_size=6).digest(), "big")


def _prompts(part: str, per_tag: int) -> tuple[PromptRecord, ...]:
    records: list[PromptRecord] = []
    for tag in TAGS:
        texts = sorted(_texts(tag, part), key=lambda text: _hash(f"{part}:{text}"))
        for number in range(per_tag):
            prompt_id = f"micro-{part}-{len(records):05}"
            records.append(parse_prompt(texts[number % len(texts)], prompt_id))
    return tuple(records)


def _texts(tag: str, part: str) -> set[str]:
    """Every text of a part: all of a tag that reserves none, else those of its third or two thirds of compositions."""
    captions = list(_captions(tag))
    if tag in UNRESERVED_TAGS:
        return {caption.text for caption in captions}
    reserved = [caption for caption in captions if is_reserved(caption)]
    ranked = sorted({composition(caption) for caption in reserved}, key=lambda name: _hash(f"evaluation:{name}"))
    num_dev = round(len(ranked) * DEV_PER_TAG / (DEV_PER_TAG + TEST_PER_TAG))
    chosen = set(ranked[:num_dev] if part == "dev" else ranked[num_dev:])
    return {caption.text for caption in reserved if composition(caption) in chosen}


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _captions(tag: str) -> Iterator[Caption]:
    """Every caption of a tag; of "colors" those of one object, as GenEval has them."""
    pairs = list(permutations(SHAPES, 2))
    match tag:
        case "single_object":
            clauses = [(Clause(shape),) for shape in SHAPES]
        case "two_object":
            clauses = [(Clause(a), Clause(b)) for a, b in pairs]
        case "counting":
            clauses = [(Clause(shape, count),) for shape, count in product(SHAPES, range(2, MAX_OBJECTS + 1))]
        case "colors":
            clauses = [(Clause(shape, 1, color),) for shape, color in product(SHAPES, COLORS)]
        case "position":
            clauses = [(Clause(b), Clause(a, relation=(name, 0))) for (a, b), name in product(pairs, RELATIONS)]
        case _:
            clauses = [
                (Clause(a, 1, color), Clause(b, 1, other))
                for (a, b), (color, other) in product(pairs, permutations(COLORS, 2))
            ]
    return (caption_from_clauses(tag, c) for c in clauses)
