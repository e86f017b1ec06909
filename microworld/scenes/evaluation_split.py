"""The fixed evaluation split of the micro world: 240 dev and 480 test prompts, 40 and 80 of each of the six tags.

Compositions come from the reserved ones alone (`captions.is_reserved`), divided between dev and test by a second hash
(a third to dev) so that the two share none. Few are reserved (6 pairs of objects, 9 coloured objects, 18 positions), so
the same text comes again under another id, which means another seed, wherever a tag has fewer distinct texts than
prompts. Single objects (8) and counts (24) are too few to reserve any: dev, test and training have the same texts
there, told apart by their seeds only.

Most of these the micro generator draws right at least once in 32 tries. `hard_dev_prompts` and `hard_test_prompts` (60
and 240, of the same reserved compositions' kind) are as hard for it as GenEval's hardest are for FLUX: coloured
relations, "a photo of a red star left of a blue ring", of which it draws one in ten. `second_hard_test_prompts` are 240
more, made when the first had been opened several times.

`test_prompts` and the two hard ones are for final figures; choices are made on the dev prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import permutations, product

from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import (
    RELATIONS,
    TAGS,
    Caption,
    Clause,
    caption_from_clauses,
    composition,
    is_reserved,
)
from microworld.scenes.compositions import compositions, is_coloured_pair, is_reserved_composition, objects_of, part_of
from microworld.scenes.world import COLORS, MAX_OBJECTS, SHAPES
from schemas.records import PromptRecord

DEV_PER_TAG, TEST_PER_TAG = 40, 80
HARD_DEV, HARD_TEST = 60, 240
COMPOSITIONAL_DEV, COMPOSITIONAL_TEST = 15, 40  # of each kind
UNRESERVED_TAGS = ("single_object", "counting")


def dev_prompts() -> tuple[PromptRecord, ...]:
    """240 prompts, "micro-dev-00000" onwards, tag by tag."""
    return _prompts("dev", DEV_PER_TAG)


def test_prompts() -> tuple[PromptRecord, ...]:
    """480 prompts, "micro-test-00000" onwards, tag by tag. Sealed: nothing is chosen by them."""
    return _prompts("test", TEST_PER_TAG)


def hard_dev_prompts() -> tuple[PromptRecord, ...]:
    """60 prompts, "micro-hard-dev-00000" onwards, no text twice."""
    return _hard_prompts("dev", HARD_DEV)


def hard_test_prompts() -> tuple[PromptRecord, ...]:
    """240 prompts, "micro-hard-test-00000" onwards, no text twice. Sealed: nothing is chosen by them."""
    return _hard_prompts("test", HARD_TEST)


def second_hard_test_prompts() -> tuple[PromptRecord, ...]:
    """240 others of the same kind, "micro-hard-test-2-00000" onwards. Sealed: nothing is chosen by them."""
    return _hard_prompts("test", HARD_TEST, number=2)


def compositional_dev_prompts() -> tuple[PromptRecord, ...]:
    """90 prompts, "micro-compositional-dev-00000" onwards, kind by kind, no text twice."""
    return _compositional_prompts("dev", COMPOSITIONAL_DEV)


def compositional_test_prompts() -> tuple[PromptRecord, ...]:
    """240 prompts, "micro-compositional-test-00000" onwards. Sealed: nothing is chosen by them."""
    return _compositional_prompts("test", COMPOSITIONAL_TEST)


# pytest would otherwise take the function for a test wherever it is imported.
test_prompts.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]

SPLITS: dict[str, Callable[[], tuple[PromptRecord, ...]]] = {
    "micro-dev": dev_prompts,
    "micro-test": test_prompts,
    "micro-hard-dev": hard_dev_prompts,
    "micro-hard-test": hard_test_prompts,
    "micro-hard-test-2": second_hard_test_prompts,
    "micro-compositional-dev": compositional_dev_prompts,
    "micro-compositional-test": compositional_test_prompts,
}
SEALED = ("micro-test", "micro-hard-test", "micro-hard-test-2", "micro-compositional-test")


def evaluation_seed(prompt_id: str) -> int:
    """The base seed of a prompt's images, in [0, 2**48): image i of the prompt has seed base + i."""
    return int.from_bytes(hashlib.blake2b(f"seed:{prompt_id}".encode(), digest_size=6).digest(), "big")


def _prompts(part: str, per_tag: int) -> tuple[PromptRecord, ...]:
    records: list[PromptRecord] = []
    for tag in TAGS:
        captions = list(_captions(tag))
        texts = {c.text for c in captions} if tag in UNRESERVED_TAGS else _reserved_texts(captions, part)
        ranked = sorted(texts, key=lambda text: _hash(f"{part}:{text}"))
        for number in range(per_tag):
            prompt_id = f"micro-{part}-{len(records):05}"
            records.append(parse_prompt(ranked[number % len(ranked)], prompt_id))
    return tuple(records)


def _hard_prompts(part: str, size: int, number: int = 1) -> tuple[PromptRecord, ...]:
    """The set of this number, of those of `size` that the part's texts make."""
    texts = sorted(_reserved_texts(_coloured_relations(), part), key=lambda text: _hash(f"hard-{part}:{text}"))
    name = f"micro-hard-{part}" + (f"-{number}" if number > 1 else "")
    chosen = texts[size * (number - 1) : size * number]
    return tuple(parse_prompt(text, f"{name}-{i:05}") for i, text in enumerate(chosen))


def _compositional_prompts(part: str, per_kind: int) -> tuple[PromptRecord, ...]:
    """Two coloured objects are of the part that they are of as a coloured relation, so that no choice made here is made
    on a hard prompt that is sealed."""
    relations = _reserved_compositions(_coloured_relations(), part)

    def is_of_part(record: PromptRecord) -> bool:
        if not is_reserved_composition(record):
            return False
        if is_coloured_pair(record):
            return objects_of(record) in relations
        return part_of(record) == part

    return compositions(f"micro-compositional-{part}", per_kind, 0 if part == "dev" else 1, is_of_part)


def _reserved_texts(captions: Iterable[Caption], part: str) -> set[str]:
    """Texts of the reserved captions whose compositions are the part's."""
    reserved = [caption for caption in captions if is_reserved(caption)]
    chosen = _reserved_compositions(reserved, part)
    return {caption.text for caption in reserved if composition(caption) in chosen}


def _reserved_compositions(captions: Iterable[Caption], part: str) -> set[str]:
    """Of the reserved compositions the part's: a third for dev, two thirds for test."""
    names = {composition(caption) for caption in captions if is_reserved(caption)}
    ranked = sorted(names, key=lambda name: _hash(f"evaluation:{name}"))
    num_dev = round(len(ranked) * DEV_PER_TAG / (DEV_PER_TAG + TEST_PER_TAG))
    return set(ranked[:num_dev] if part == "dev" else ranked[num_dev:])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _coloured_relations() -> Iterator[Caption]:
    for (a, b), name, (color, other) in product(permutations(SHAPES, 2), RELATIONS, permutations(COLORS, 2)):
        clauses = (Clause(b, color=other), Clause(a, color=color, relation=(name, 0)))
        yield caption_from_clauses("position", clauses)


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
