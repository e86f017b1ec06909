"""Prompts that ask for much: two to four objects with places, colours, counts; 4 to 10 atoms each.

Six kinds (`KINDS`): two coloured objects, three plain ones, two alike and another, three coloured ones, four plain and
four coloured ones. They are said as the world's long captions say it ("a red star in the upper left and ..."), the only
words in which the micro generator draws three objects at all; up to three of them with the background, as these do
(beside four a reflection would no longer fit into the text encoder's 64 tokens). Places are corners of the frame, so
that some objects stand in a row or a column: these relations are what a prompt's record asks for, beside objects,
counts and colours. Of the background it asks nothing.

What a prompt is made of (its objects, wherever they stand) is reserved for benchmarks or free for training by a hash.
`python -m microworld.scenes.compositions --out FILE.jsonl` writes free ones, to search among and to harvest from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from inference.requirements.clauses import as_entries
from microworld.scenes.captions import PLACES, Caption, Clause, caption_from_clauses, composition, is_reserved
from microworld.scenes.world import COLORS, SHAPES
from schemas.atomic_file import replacing
from schemas.records import ObjectClause, PromptRecord
from schemas.terminal import say

KINDS = ("two_colored", "three_plain", "two_alike", "three_colored", "four_plain", "four_colored")
_CORNERS = {(0, 0): "upper left", (1, 0): "upper right", (0, 1): "lower left", (1, 1): "lower right"}
Corner = tuple[int, int]


def is_reserved_composition(record: PromptRecord) -> bool:
    """Whether the objects of such a prompt are kept for benchmarks: a fifth of all sets of objects, whatever their
    places; of two coloured ones, those that are reserved as coloured relations are."""
    if is_coloured_pair(record):
        return is_reserved(_relation_caption(record.include))
    return _hash(f"reserved:{objects_of(record)}") % 5 == 0


def is_coloured_pair(record: PromptRecord) -> bool:
    """Whether it asks for two single objects, as coloured relations do."""
    return len(record.include) == 2 and all(clause.count == 1 for clause in record.include)


def objects_of(record: PromptRecord) -> str:
    """What a prompt asks for apart from places, in one spelling."""
    if is_coloured_pair(record):
        return composition(_relation_caption(record.include))
    return "+".join(sorted(f"{clause.count} {clause.color or ''} {clause.class_name}" for clause in record.include))


def sample_composition(rng: np.random.Generator, kind: str, prompt_id: str = "prompt") -> PromptRecord:
    """A prompt of one of `KINDS`, reserved or not."""
    shapes = rng.permutation(list(SHAPES)).tolist()
    colors: Sequence[str | None] = rng.permutation(list(COLORS)).tolist()
    number = 2 if kind == "two_colored" else 4 if kind.startswith("four") else 3
    if kind.endswith("plain"):
        colors = [None] * number
    corners = _corners(rng, number)
    if kind == "two_alike":
        told = [(shapes[0], colors[0]), (shapes[0], colors[0]), (shapes[1], colors[1])]
        include = (ObjectClause(shapes[0], 2, colors[0]), ObjectClause(shapes[1], 1, colors[1]))
        exclude = (ObjectClause(shapes[0], 3),)
        return _record(prompt_id, told, corners, include, exclude)
    told = list(zip(shapes[:number], colors, strict=False))
    relations = [(1, 0), (2, 0), (3, 1)][: number - 1]
    if kind == "four_colored":
        relations = relations[:2]
    placed = dict(relations)
    include = tuple(
        ObjectClause(shape, 1, color, _relation(corners[i], corners[placed[i]]), placed[i])
        if i in placed
        else ObjectClause(shape, 1, color)
        for i, (shape, color) in enumerate(told)
    )
    return _record(prompt_id, told, corners, include, ())


def compositions(
    name: str, per_kind: int, seed: int, accept: Callable[[PromptRecord], bool]
) -> tuple[PromptRecord, ...]:
    """`per_kind` accepted prompts of each kind, kind by kind, no text twice; ids are `name` and a number."""
    rng, records, texts = np.random.default_rng([seed, 27]), [], set()
    for kind in KINDS:
        wanted = len(records) + per_kind
        while len(records) < wanted:
            record = sample_composition(rng, kind, f"{name}-{len(records):05}")
            if record.text not in texts and accept(record):
                texts.add(record.text)
                records.append(record)
    return tuple(records)


def part_of(record: PromptRecord) -> str:
    """Of a reserved one: "dev" (a third) or "test", by what it is made of."""
    return "dev" if _hash(f"part:{objects_of(record)}") % 3 == 0 else "test"


def metadata_line(record: PromptRecord) -> dict[str, object]:
    """As a prompt file of GenEval's form holds it."""
    return {
        "id": record.prompt_id,
        "prompt": record.text,
        "include": as_entries(record.include),
        "exclude": as_entries(record.exclude),
    }


def _corners(rng: np.random.Generator, number: int) -> list[Corner]:
    """Corners of as many objects: the second in a row or a column with the first, the third on the first's other side,
    the fourth opposite it."""
    first = (int(rng.integers(2)), int(rng.integers(2)))
    beside, under = (1 - first[0], first[1]), (first[0], 1 - first[1])
    second, third = (beside, under) if rng.random() < 0.5 else (under, beside)
    return [first, second, third, (1 - first[0], 1 - first[1])][:number]


def _relation(corner: Corner, other: Corner) -> str:
    """In which relation one corner stands to another of the same row or column."""
    if corner[1] == other[1]:
        return "left of" if corner[0] < other[0] else "right of"
    return "above" if corner[1] < other[1] else "below"


def _record(
    prompt_id: str,
    told: Sequence[tuple[str, str | None]],
    corners: Sequence[Corner],
    include: tuple[ObjectClause, ...],
    exclude: tuple[ObjectClause, ...],
) -> PromptRecord:
    parts = [_named(shape, color, corner) for (shape, color), corner in zip(told, corners, strict=True)]
    ground = " on a plain grey background." if len(told) < 4 else ""
    text = f"a photo of {', '.join(parts[:-1])} and {parts[-1]}{ground}"
    return PromptRecord(prompt_id, text, "rule", None, include, exclude)


def _named(shape: str, color: str | None, corner: Corner) -> str:
    words = [word for word in (color, shape) if word]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)} {PLACES[_CORNERS[corner]]}"


def _relation_caption(include: Sequence[ObjectClause]) -> Caption:
    """Two objects as the caption of a coloured relation."""
    target, subject = include
    relation = (subject.relation or "left of", 0)
    clauses = (
        Clause(target.class_name, color=target.color),
        Clause(subject.class_name, color=subject.color, relation=relation),
    )
    return caption_from_clauses("position", clauses)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True)
class CompositionsConfig:
    """Which prompts, and where they go."""

    out: Path
    """A prompt file in GenEval's form, written anew."""
    num_prompts: int = 600
    """At least so many: as many of each of the six kinds."""
    seed: int = 0


def main() -> None:
    """Write free prompts, evenly over the kinds."""
    import tyro

    config = tyro.cli(CompositionsConfig, description=__doc__)
    number = -(-config.num_prompts // len(KINDS))
    free = compositions("composition", number, config.seed, lambda record: not is_reserved_composition(record))
    lines = [json.dumps(metadata_line(record)) + "\n" for record in free]
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(config.out) as temporary:
        temporary.write_text("".join(lines))
    say(f"{len(lines)} prompts: {config.out}")


if __name__ == "__main__":
    main()
