"""Captions of the micro world, with GenEval's six tags, and scenes that they describe exactly.

A caption is a `Caption`: tag, text and clauses. `sample_scene` draws a scene that satisfies every clause and holds
nothing else; `is_true_of` tells whether a scene's truth satisfies a caption, by GenEval's rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Scene, SceneObject, place_objects, random_background
from schemas.records import PromptRecord

COUNT_WORDS: dict[int, str] = {1: "one", 2: "two", 3: "three", 4: "four"}
RELATIONS: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
POSITION_THRESHOLD = 0.1  # GenEval: offsets shrink by this share of the two objects' sizes
POSITION_CUTOFF = 0.5  # GenEval: a relation holds where the normalised component is beyond this

# Share of each tag in training captions: harder tags more often. Any subset of tags may be given instead.
TRAINING_WEIGHTS: dict[str, float] = {
    "single_object": 0.08,
    "colors": 0.16,  # a quarter of these ask for two to four objects of one colour
    "two_object": 0.16,
    "counting": 0.18,
    "position": 0.22,
    "color_attr": 0.20,
}
COLORED_RELATION = "position_with_color"  # as `TagWeights` calls it; no tag of GenEval's
TAGS: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

_OTHER_WORDS = """
left right above below top bottom upper lower middle centre corner side
add remove replace by with make move recolour change to from into keep delete put place turn
background grey plain gradient horizon object objects shape shapes colour color number
[reflexion] . , : ; ? ! ' " ( ) - / { } [ ]
is are was be there no not none yes true false in on at it its that this which should must need
instead more less fewer only exactly but too many few missing extra wrong correct right same other
next beside near between each all both another zero five six seven eight nine ten
0 1 2 3 4 5 6 7 8 9
first second third last bigger smaller larger big small size position count whole complete
what how does do has have show shows see contains match matches answer or than as so then
good bad better worse clear sharp broken merged touching overlapping separate apart far close
draw drawn fix improve reflection step please scene pixel edge swap exchange up down further
away let give paint erase everything still stays same leave
outline outlined filled hollow solid line lines thin thick light dark lighter darker pale
sky ground floor part half upper lower ends starts begins fades fading split meets behind front
stands sits lies appears placed found contains containing where here one whose itself alone
plus along together tone even surface under over around pointing closer
also just inside outside every same stacked
who which when why how out for use used uses using says said would could can cannot
analysis result instructions instruction prompt overall score scores explanation judge verdict because
completeness detectability occlusion handling separation clarity individual relationship accuracy
uniformity spatial legibility fidelity contrast effectiveness multi consistency management perspective
attribute binding material well barely fully partly clearly requested asked expected wanted
palette weight depth layout order overlay sketch warm cold high low row column diagonal
describe shorten short long caption write refine compare better than seen visible nothing
surrounded vertical horizontal tall wide level equal different kind word means mean example concept
_ | < > = + *
large take
"""

# Every word a tokenizer of the micro family knows: captions, reflections, instructions, questions and answers.
# Appending is safe; reordering or removing changes token ids and with them every trained text encoder.
_FIRST_WORDS = "a an the photo of and image picture"
VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_FIRST_WORDS.split(),
            *SHAPES,
            *(f"{shape}s" for shape in SHAPES if shape != "cross"),
            "crosses",
            *COLORS,
            *COUNT_WORDS.values(),
            *_OTHER_WORDS.split(),
        ]
    )
)


@dataclass(frozen=True)
class Clause:
    """`count` objects of a shape, perhaps of a colour, perhaps standing in a relation to another clause."""

    shape: str
    count: int = 1
    color: str | None = None
    relation: tuple[str, int] | None = None  # ("left of", index of the other clause)


@dataclass(frozen=True)
class Caption:
    """One prompt of the micro world with what it demands."""

    tag: str
    text: str
    clauses: tuple[Clause, ...]


def caption_of_record(record: PromptRecord) -> Caption:
    """A prompt record's requirements in the world's own terms."""
    clauses = tuple(
        Clause(
            c.class_name,
            c.count,
            c.color,
            (c.relation, c.relative_to) if c.relation and c.relative_to is not None else None,
        )
        for c in record.include
    )
    return Caption(record.tag or "", record.text, clauses)


def class_plural(shape: str) -> str:
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption_from_clauses(tag: str, clauses: tuple[Clause, ...]) -> Caption:
    """The text that GenEval would give these clauses, e.g. "a photo of an orange ring"."""

    def phrase(clause: Clause) -> str:
        words = [clause.color] if clause.color else []
        words.append(clause.shape if clause.count == 1 else class_plural(clause.shape))
        return " ".join([_article(words[0]) if clause.count == 1 else COUNT_WORDS[clause.count], *words])

    relation = next((c.relation for c in clauses if c.relation), None)
    if relation:
        subject = next(c for c in clauses if c.relation)
        text = f"{phrase(subject)} {relation[0]} {phrase(clauses[relation[1]])}"
    else:
        text = " and ".join(phrase(c) for c in clauses)
    return Caption(tag, f"a photo of {text}", clauses)


def composition(caption: Caption) -> str:
    """What a caption composes, in one spelling for all captions that mean the same (order and mirrored relations)."""
    parts = [f"{c.color or ''} {c.shape}" for c in caption.clauses]
    relation = next((c.relation for c in caption.clauses if c.relation), None)
    if relation is None:
        return f"{caption.tag}:{'+'.join(sorted(parts))}"
    subject = next(c for c in caption.clauses if c.relation)
    first, name, second = f"{subject.color or ''} {subject.shape}", relation[0], parts[relation[1]]
    if name in ("right of", "below"):
        first, name, second = second, RELATIONS[name], first
    return f"{caption.tag}:{first} {name} {second}"


def is_reserved(caption: Caption) -> bool:
    """Some compositions are kept for benchmarks: no training caption uses them.

    About a fifth of those of two objects, positions and colours, and a tenth of the (many more) colour pairs, decided
    by a hash of the composition, so it needs no list and never changes. Single objects and plain counts are too few
    to reserve any.
    """
    if caption.tag in ("single_object", "counting"):
        return False
    one_in = 10 if caption.tag == "color_attr" else 5
    return hashlib.blake2b(composition(caption).encode(), digest_size=4).digest()[0] % one_in == 0


def is_colored_relation(caption: Caption) -> bool:
    """Whether it is of the kind `COLORED_RELATION`."""
    return caption.tag == "position" and all(clause.color for clause in caption.clauses)


def sample_caption(rng: np.random.Generator, weights: Mapping[str, float] = TRAINING_WEIGHTS) -> Caption:
    """Any caption of the world (reserved or not) with tags drawn by `weights`; besides them there may be
    `COLORED_RELATION`, a position that names both colours."""
    tags = list(weights)
    share = np.array([weights[t] for t in tags], float)
    tag = tags[rng.choice(len(tags), p=share / share.sum())]
    first, second = rng.permutation(list(SHAPES))[:2].tolist()
    color, other_color = rng.permutation(list(COLORS))[:2].tolist()
    if tag == "single_object":
        clauses = (Clause(first),)
    elif tag == "two_object":
        clauses = (Clause(first), Clause(second))
    elif tag == "counting":
        clauses = (Clause(first, int(rng.integers(2, 5))),)
    elif tag == "colors":
        clauses = (Clause(first, 1 if rng.random() < 0.75 else int(rng.integers(2, 5)), color),)
    elif tag == "position":
        relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
        clauses = (Clause(second), Clause(first, relation=(relation, 0)))
    elif tag == "color_attr":
        clauses = (Clause(first, color=color), Clause(second, color=other_color))
    elif tag == COLORED_RELATION:
        relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
        clauses = (Clause(second, color=other_color), Clause(first, color=color, relation=(relation, 0)))
    else:
        raise ValueError(f"unknown tag {tag!r}; expected one of {', '.join([*TAGS, COLORED_RELATION])}")
    return caption_from_clauses("position" if tag == COLORED_RELATION else tag, clauses)


def relations_between(a: np.ndarray, b: np.ndarray) -> set[str]:
    """The relations in which box `a` stands to box `b` (xyxy px), by GenEval's rule; often one, at times two."""
    size_a, size_b = a[2:] - a[:2], b[2:] - b[:2]
    offset = (a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2
    shrunk = np.maximum(np.abs(offset) - POSITION_THRESHOLD * (size_a + size_b), 0) * np.sign(offset)
    if (np.abs(shrunk) < 1e-3).all():
        return set()
    x, y = shrunk / np.linalg.norm(offset)
    found = {"left of": x < -POSITION_CUTOFF, "right of": x > POSITION_CUTOFF}
    found |= {"above": y < -POSITION_CUTOFF, "below": y > POSITION_CUTOFF}
    return {name for name, holds in found.items() if holds}


def bounding_square(item: SceneObject) -> np.ndarray:
    """xyxy px, float64 (4,)."""
    half = item.size / 2
    return np.array([item.cx - half, item.cy - half, item.cx + half, item.cy + half])


# The 3 x 3 grid of the frame, row by row, and how a sentence names each cell.
PLACES: dict[str, str] = {
    "upper left": "in the upper left",
    "top": "at the top",
    "upper right": "in the upper right",
    "left": "on the left",
    "centre": "in the centre",
    "right": "on the right",
    "lower left": "in the lower left",
    "bottom": "at the bottom",
    "lower right": "in the lower right",
}


def place_of(item: SceneObject) -> str:
    """The cell of the 3 x 3 grid that holds the object's centre: a key of `PLACES`."""
    column, row = (min(max(int(3 * v / FRAME_PX), 0), 2) for v in (item.cx, item.cy))
    return list(PLACES)[3 * row + column]


def is_true_of(caption: Caption, scene: Scene) -> bool:
    """Whether the scene's objects are exactly what the caption demands: no clause unmet, no object besides."""
    if len(scene.objects) != sum(c.count for c in caption.clauses):
        return False
    groups = []
    for clause in caption.clauses:
        group = [o for o in scene.objects if o.shape == clause.shape and clause.color in (None, o.color)]
        if len(group) != clause.count:
            return False
        groups.append(group)
    return all(
        clause.relation is None or clause.relation[0] in relations_between(bounding_square(a), bounding_square(b))
        for clause, group in zip(caption.clauses, groups, strict=True)
        for a in group
        for b in (groups[clause.relation[1]] if clause.relation else ())
    )


def sample_scene(rng: np.random.Generator, caption: Caption, varied_share: float = 0.1) -> Scene:
    """A scene that satisfies exactly `caption`; what it leaves open (colours, places, background) is random.

    Objects of one count mostly share their colour, as photographs of "three stars" do. A relation is drawn clear:
    the offset of the centres is within 30 degrees of its axis.
    """
    owners = [i for i, clause in enumerate(caption.clauses) for _ in range(clause.count)]
    relation = next((c.relation for c in caption.clauses if c.relation), None)
    subject = next((i for i, c in enumerate(caption.clauses) if c.relation), 0)

    def relation_is_clear(squares: np.ndarray) -> bool:
        assert relation is not None
        dx, dy = squares[owners.index(subject), :2] - squares[owners.index(relation[1]), :2]
        along, across = {
            "left of": (-dx, dy),
            "right of": (dx, dy),
            "above": (-dy, dx),
            "below": (dy, dx),
        }[relation[0]]
        return along > 0 and abs(across) < 0.58 * along

    squares = place_objects(rng, len(owners), relation_is_clear if relation else None)
    names = list(COLORS)
    objects = []
    for clause_index, clause in enumerate(caption.clauses):
        shared = names[rng.integers(len(names))] if rng.random() < 0.75 else None
        for square, owner in zip(squares, owners, strict=True):
            if owner == clause_index:
                color = clause.color or shared or names[rng.integers(len(names))]
                objects.append(SceneObject(clause.shape, color, *(float(v) for v in square)))
    return Scene(random_background(rng, varied_share), tuple(objects))


def sample_training_caption(rng: np.random.Generator, weights: Mapping[str, float] = TRAINING_WEIGHTS) -> Caption:
    """A caption whose composition is not reserved for benchmarks."""
    while is_reserved(caption := sample_caption(rng, weights)):
        pass
    return caption


def sample_captioned_scene(
    rng: np.random.Generator, weights: Mapping[str, float] = TRAINING_WEIGHTS
) -> tuple[str, Scene]:
    """A training caption and a scene that satisfies exactly it."""
    caption = sample_training_caption(rng, weights)
    return caption.text, sample_scene(rng, caption)


def training_captions(number: int) -> tuple[str, ...]:
    """Texts of so many, none twice; always the same, and of more the first ones."""
    rng, captions = np.random.default_rng([0, 92]), {}
    while len(captions) < number:
        captions[sample_training_caption(rng).text] = True
    return tuple(captions)
