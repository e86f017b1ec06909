"""Concept words that a VLM is taught and the generator never sees ("sunrise": a yellow circle just above the horizon).

None of the words is in `captions.VOCABULARY`; every plain description uses that vocabulary alone, so refining "a
photo of a sunrise" to its description is what lets the generator draw it. A concept is an arrangement of parts; a
scene shows it if its objects are exactly those parts in that arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np

from microworld.scenes.captions import place_of
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Background, Scene, SceneObject, random_background

ALIGNED_PX = 2.5  # centres of a stack or a row differ by no more across its direction
CLOSE_PX = 5.0  # and its bounding squares are no further apart
INNER_SHARE = 0.7  # an object inside another has at most this share of its size
JUST_ABOVE_PX = (-1.0, 3.0)  # from an object's lower edge down to the horizon
ACROSS_PX = 2.0  # an object on the horizon has its centre no further from it
HIGH_PX = 6.0  # an object high above the horizon keeps at least this distance
SMALL_BELOW_PX, LARGE_FROM_PX = 9.5, 12.5


class Arrangement(StrEnum):
    """How the parts of a concept stand to each other."""

    ALONE = "alone"
    STACK = "stack"  # from top to bottom
    ROW = "row"  # from left to right
    INSIDE = "inside"  # the second part in the middle of the first


class Where(StrEnum):
    """Where a part that is alone must be."""

    ANYWHERE = "anywhere"
    TOP = "top"  # the upper row of the 3 x 3 grid
    CENTRE = "centre"
    BOTTOM = "bottom"  # its lower row
    RISING = "rising"  # just above a horizon
    ACROSS = "across"  # on a horizon
    HIGH = "high"  # high above a horizon
    GROUND = "ground"  # below a horizon


_NEEDS_HORIZON = (Where.RISING, Where.ACROSS, Where.HIGH, Where.GROUND)


@dataclass(frozen=True)
class Part:
    """One object of a concept; `color` None is any. `size` is "small", "large" or "" (any), px thresholds above."""

    shape: str
    color: str | None
    size: str = ""
    outlined: bool = False


@dataclass(frozen=True)
class Concept:
    """A word, what it means in plain words of the world, and the arrangement it stands for."""

    word: str
    description: str
    parts: tuple[Part, ...]
    arrangement: Arrangement = Arrangement.ALONE
    where: Where = Where.ANYWHERE

    def holds(self, scene: Scene) -> bool:
        """Whether the scene shows the concept and nothing besides."""
        if len(scene.objects) != len(self.parts):
            return False
        ordered = _ordered(self.arrangement, scene.objects)
        if not all(_fits(part, item) for part, item in zip(self.parts, ordered, strict=True)):
            return False
        if self.arrangement is Arrangement.ALONE:
            return _stands(self.where, ordered[0], scene.background)
        return all(_is_arranged(self.arrangement, a, b) for a, b in pairwise(ordered))

    def sample(self, rng: np.random.Generator) -> Scene:
        """A scene that shows the concept."""
        while True:
            background = random_background(rng, 0.3)
            if self.where in _NEEDS_HORIZON:
                background = replace(random_background(rng, 1.0), kind="horizon", horizon_px=float(rng.uniform(14, 20)))
            objects = tuple(_draw(part, rng) for part in self.parts)
            scene = Scene(background, _place(self, objects, background, rng))
            if all(_is_inside_frame(o) for o in scene.objects) and self.holds(scene):
                return scene

    def near_miss(self, rng: np.random.Generator) -> Scene:
        """A scene that almost shows the concept: one part or the arrangement is another."""
        while True:
            scene = self.sample(rng)
            objects = list(scene.objects)
            index = int(rng.integers(len(objects)))
            change = rng.integers(4)
            if change == 0:
                objects[index] = replace(objects[index], color=list(COLORS)[rng.integers(len(COLORS))])
            elif change == 1:
                objects[index] = replace(objects[index], shape=list(SHAPES)[rng.integers(len(SHAPES))])
            elif change == 2 and len(objects) > 1:
                other = (index + 1) % len(objects)
                a, b = objects[index], objects[other]
                objects[index] = replace(a, color=b.color, shape=b.shape)
                objects[other] = replace(b, color=a.color, shape=a.shape)
            else:
                objects = _scattered(objects, rng)
            missed = Scene(scene.background, tuple(objects))
            if all(_is_inside_frame(o) for o in objects) and not self.holds(missed):
                return missed


def _ordered(arrangement: Arrangement, objects: Sequence[SceneObject]) -> list[SceneObject]:
    match arrangement:
        case Arrangement.STACK:
            return sorted(objects, key=lambda o: o.cy)
        case Arrangement.ROW:
            return sorted(objects, key=lambda o: o.cx)
        case Arrangement.INSIDE:
            return sorted(objects, key=lambda o: -o.size)
        case _:
            return list(objects)


def _fits(part: Part, item: SceneObject) -> bool:
    sized = {"small": item.size < SMALL_BELOW_PX, "large": item.size >= LARGE_FROM_PX}.get(part.size, True)
    same = item.shape == part.shape and part.color in (None, item.color)
    return same and sized and part.outlined == (item.stroke > 0)


def _is_arranged(arrangement: Arrangement, a: SceneObject, b: SceneObject) -> bool:
    dx, dy, reach = b.cx - a.cx, b.cy - a.cy, (a.size + b.size) / 2
    if arrangement is Arrangement.INSIDE:
        return float(np.hypot(dx, dy)) <= ACROSS_PX and b.size <= INNER_SHARE * a.size
    along, across = (dy, dx) if arrangement is Arrangement.STACK else (dx, dy)
    return abs(across) <= ALIGNED_PX and 0 <= along - reach <= CLOSE_PX


def _stands(where: Where, item: SceneObject, background: Background) -> bool:
    if where in _NEEDS_HORIZON and background.kind != "horizon":
        return False
    below_it = background.horizon_px - (item.cy + item.size / 2)
    match where:
        case Where.TOP:
            return place_of(item) in ("upper left", "top", "upper right")
        case Where.CENTRE:
            return place_of(item) == "centre"
        case Where.BOTTOM:
            return place_of(item) in ("lower left", "bottom", "lower right")
        case Where.RISING:
            return JUST_ABOVE_PX[0] <= below_it <= JUST_ABOVE_PX[1]
        case Where.ACROSS:
            return abs(item.cy - background.horizon_px) <= ACROSS_PX
        case Where.HIGH:
            return below_it >= HIGH_PX
        case Where.GROUND:
            return item.cy - item.size / 2 >= background.horizon_px
        case _:
            return True


def _is_inside_frame(item: SceneObject) -> bool:
    return item.size / 2 <= min(item.cx, item.cy) and max(item.cx, item.cy) <= FRAME_PX - item.size / 2


def _draw(part: Part, rng: np.random.Generator) -> SceneObject:
    low, high = {"small": (8.0, 9.4), "large": (12.6, 15.0)}.get(part.size, (8.0, 12.0))
    color = part.color or list(COLORS)[rng.integers(len(COLORS))]
    stroke = float(rng.uniform(1.0, 1.3)) if part.outlined else 0.0
    return SceneObject(part.shape, color, 16.0, 16.0, float(rng.uniform(low, high)), stroke)


def _place(
    concept: Concept, objects: tuple[SceneObject, ...], background: Background, rng: np.random.Generator
) -> tuple[SceneObject, ...]:
    """The objects put where the concept wants them; the caller rejects what does not fit into the frame."""
    if concept.arrangement is Arrangement.ALONE:
        return (_placed_alone(concept.where, objects[0], background, rng),)
    if concept.arrangement is Arrangement.INSIDE:
        outer = replace(objects[0], size=float(rng.uniform(16, 22)))
        cx, cy = rng.uniform(outer.size / 2, FRAME_PX - outer.size / 2, 2)
        inner = replace(objects[1], size=float(rng.uniform(0.42, 0.58) * outer.size))
        return replace(outer, cx=float(cx), cy=float(cy)), replace(inner, cx=float(cx), cy=float(cy))
    crowded = len(objects) > 2
    sizes = [min(o.size, 8.6) if crowded else o.size for o in objects]
    gaps = rng.uniform(1.5, 2.2 if crowded else 3.0, len(objects) - 1)
    ends = np.cumsum(sizes) + np.concatenate([[0.0], np.cumsum(gaps)])
    first = float(rng.uniform(0, max(FRAME_PX - ends[-1], 0.0)))
    across = rng.uniform(7, FRAME_PX - 7) + rng.uniform(-0.8, 0.8, len(objects))
    placed = []
    for item, size, end, side in zip(objects, sizes, ends, across, strict=True):
        along = first + float(end) - size / 2
        cx, cy = (float(side), along) if concept.arrangement is Arrangement.STACK else (along, float(side))
        placed.append(replace(item, cx=cx, cy=cy, size=size))
    return tuple(placed)


def _placed_alone(where: Where, item: SceneObject, background: Background, rng: np.random.Generator) -> SceneObject:
    half, horizon = item.size / 2, background.horizon_px
    cx, cy = (float(v) for v in rng.uniform(half, FRAME_PX - half, 2))
    match where:
        case Where.RISING:
            cy = horizon - half - float(rng.uniform(*JUST_ABOVE_PX))
        case Where.ACROSS:
            cy = horizon + float(rng.uniform(-ACROSS_PX, ACROSS_PX))
        case Where.CENTRE:
            cx, cy = (float(v) for v in rng.uniform(12, 20, 2))
        case _:
            pass
    return replace(item, cx=cx, cy=cy)


def _scattered(objects: list[SceneObject], rng: np.random.Generator) -> list[SceneObject]:
    """The same objects anywhere, without overlap where that is possible."""
    for _ in range(40):
        centres = [rng.uniform(o.size / 2, FRAME_PX - o.size / 2, 2) for o in objects]
        moved = [replace(o, cx=float(c[0]), cy=float(c[1])) for o, c in zip(objects, centres, strict=True)]
        apart = all(
            max(abs(a.cx - b.cx), abs(a.cy - b.cy)) >= (a.size + b.size) / 2 + 1.5
            for i, a in enumerate(moved)
            for b in moved[:i]
        )
        if apart:
            return moved
        objects = [replace(o, size=max(o.size * 0.95, 8.0)) for o in objects]
    return objects


def _alone(word: str, description: str, part: Part, where: Where = Where.ANYWHERE) -> Concept:
    return Concept(word, description, (part,), where=where)


def _stack(word: str, description: str, *parts: Part) -> Concept:
    return Concept(word, description, parts, Arrangement.STACK)


def _row(word: str, description: str, *parts: Part) -> Concept:
    return Concept(word, description, parts, Arrangement.ROW)


def _inside(word: str, description: str, *parts: Part) -> Concept:
    return Concept(word, description, parts, Arrangement.INSIDE)


CONCEPTS: dict[str, Concept] = {
    concept.word: concept
    for concept in (
        _alone("sunrise", "a yellow circle just above the horizon", Part("circle", "yellow"), Where.RISING),
        _alone("sunset", "an orange circle on the horizon", Part("circle", "orange"), Where.ACROSS),
        _alone("noon", "a yellow circle high above the horizon", Part("circle", "yellow"), Where.HIGH),
        _alone("balloon", "a red circle high above the horizon", Part("circle", "red"), Where.HIGH),
        _alone("kite", "a diamond high above the horizon", Part("diamond", None), Where.HIGH),
        _alone("iceberg", "a white triangle on the horizon", Part("triangle", "white"), Where.ACROSS),
        _alone("volcano", "a red triangle just above the horizon", Part("triangle", "red"), Where.RISING),
        _alone("pyramid", "a yellow triangle just above the horizon", Part("triangle", "yellow"), Where.RISING),
        _alone("grave", "a black cross just above the horizon", Part("cross", "black"), Where.RISING),
        _alone("buoy", "a red diamond on the horizon", Part("diamond", "red"), Where.ACROSS),
        _alone("lifebuoy", "an orange ring below the horizon", Part("ring", "orange"), Where.GROUND),
        _alone("starfish", "an orange star below the horizon", Part("star", "orange"), Where.GROUND),
        _alone("moon", "a white circle in the top row", Part("circle", "white"), Where.TOP),
        _alone("polestar", "a small white star in the top row", Part("star", "white", "small"), Where.TOP),
        _alone(
            "coal",
            "a small black square in the bottom row of the image",
            Part("square", "black", "small"),
            Where.BOTTOM,
        ),
        _alone("valentine", "a large red heart in the centre", Part("heart", "red", "large"), Where.CENTRE),
        _alone("hospital", "a large red cross in the centre", Part("cross", "red", "large"), Where.CENTRE),
        _alone("clover", "a green heart", Part("heart", "green")),
        _alone("emerald", "a small green diamond", Part("diamond", "green", "small")),
        _alone("bubble", "an outlined circle", Part("circle", None, outlined=True)),
        _alone("frame", "a large outlined square", Part("square", None, "large", outlined=True)),
        _stack(
            "stoplight",
            "a red circle above a yellow circle above a green circle, in a column",
            *(Part("circle", color) for color in ("red", "yellow", "green")),
        ),
        _stack(
            "snowman",
            "a small white circle just above a large white circle",
            Part("circle", "white", "small"),
            Part("circle", "white", "large"),
        ),
        _stack("house", "a red triangle just above a white square", Part("triangle", "red"), Part("square", "white")),
        _stack(
            "pine", "a green triangle just above a black square", Part("triangle", "green"), Part("square", "black")
        ),
        _stack("lamp", "a yellow circle just above a black square", Part("circle", "yellow"), Part("square", "black")),
        _stack("flower", "a purple star just above a green diamond", Part("star", "purple"), Part("diamond", "green")),
        _stack("trophy", "a yellow star just above a yellow square", Part("star", "yellow"), Part("square", "yellow")),
        _stack("gelato", "a white circle above an orange diamond", Part("circle", "white"), Part("diamond", "orange")),
        _stack("skyscraper", "three blue squares, stacked in a column", *[Part("square", "blue")] * 3),
        _row(
            "flag",
            "a blue, a white, a red square in a row",
            *(Part("square", c) for c in ("blue", "white", "red")),
        ),
        _row("eyes", "two blue circles side by side", *[Part("circle", "blue")] * 2),
        _row("bicycle", "two black rings side by side", *[Part("ring", "black")] * 2),
        _row("wedding", "two yellow rings side by side", *[Part("ring", "yellow")] * 2),
        _row("caterpillar", "three green circles in a row", *[Part("circle", "green")] * 3),
        _row("chain", "three rings in a row", *[Part("ring", None)] * 3),
        _inside("target", "a red circle inside a white circle", Part("circle", "white"), Part("circle", "red")),
        _inside("egg", "a yellow circle inside a white circle", Part("circle", "white"), Part("circle", "yellow")),
        _inside("medal", "a yellow star inside a blue circle", Part("circle", "blue"), Part("star", "yellow")),
        _inside("sheriff", "a white star inside a red circle", Part("circle", "red"), Part("star", "white")),
        _inside("bandage", "a red cross inside a white square", Part("square", "white"), Part("cross", "red")),
        _inside("dice", "a black circle inside a white square", Part("square", "white"), Part("circle", "black")),
    )
}
