"""Seeded references of the five kinds of visual prompts: a palette, a line's thickness, a horizon's row, two points, a
sketch; each with a prompt that the micro generator can draw, and how an image's agreement is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.dual_process.visual_agreement import (
    horizon_distance_px,
    layout_overlap,
    lies_before,
    palette_distance,
    stroke_px,
)
from inference.dual.concept import Concept, QuestionAnswer, ReferenceImage, concept_of
from inference.vlm.overlays import ColorPalette, HorizonPosition, LineWeight, RelativeDepth, VisualPrompt
from microworld.scenes.captions import PLACES, sample_scene, sample_training_caption
from microworld.scenes.long_captions import composes_reserved, describe_background, name_object
from microworld.scenes.overlay_questions import STROKES_PX, sketch_of
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Background, SceneObject
from schemas.configuration import content_key
from schemas.images import sha256
from schemas.records import DetectedObject

SEED = 11
OUTLINED = ("circle", "square", "heart", "diamond")  # whose outlines `stroke_px` measures well
SOLID = tuple(name for name in SHAPES if name not in ("ring", "cross"))
SKY = "a lighter sky over a darker ground"  # of the long captions' ways to say it, the one that is most often drawn
HORIZONS = (0.25, 0.75)  # where the world's horizons lie, as shares of the height
QUARTERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))

Measure = Callable[[np.ndarray, Sequence[DetectedObject]], float]
Made = tuple[str, str, VisualPrompt, Measure]  # prompt, what is wanted in words, overlay, measure


@dataclass(frozen=True, eq=False)
class Reference:
    """What images of a prompt are to agree with. wanted: in words; measure: of an image and what was found in it."""

    name: str
    prompt: str
    wanted: str
    overlay: VisualPrompt
    measure: Measure

    @property
    def concept(self) -> Concept:
        asked = QuestionAnswer(self.overlay.question, overlays=(self.overlay,))
        one = concept_of(self.name, self.prompt, [asked])
        layer = self.overlay.layer(FRAME_PX, FRAME_PX)  # large pictures are not told apart by their repr
        return replace(one, digest=content_key(one.digest, sha256(layer.tobytes())))


@dataclass(frozen=True)
class Kind:
    """One kind of visual prompt: what is measured, and how a reference is made from random numbers, its number, and how
    many there are."""

    measured: str
    better: str  # "more" or "less"
    make: Callable[[np.random.Generator, int, int], Made]


def _palette(rng: np.random.Generator, number: int, count: int) -> Made:
    prompt = sample_training_caption(rng, {"two_object": 1.0}).text
    chosen = sorted(rng.permutation(len(COLORS))[:2].tolist())  # in the world's order, as the VLM learnt palettes
    names = [list(COLORS)[i] for i in chosen]
    colors = tuple(COLORS[name] for name in names)
    return prompt, " and ".join(names), ColorPalette(colors), lambda i, found: palette_distance(i, found, colors)


def _line_weight(rng: np.random.Generator, number: int, count: int) -> Made:
    wanted = STROKES_PX[::-1][number % len(STROKES_PX)]  # thick ones first: the generator's own lines are thin
    item = _any_object(rng, OUTLINED, stroke=STROKES_PX[0])
    prompt = f"a photo of {name_object(item)} {PLACES['centre']} on {describe_background(Background())}"
    return prompt, f"{wanted} px", LineWeight(wanted / FRAME_PX), lambda i, _: abs(stroke_px(i) - wanted)


def _horizon(rng: np.random.Generator, number: int, count: int) -> Made:
    low, high = HORIZONS
    y = float(low + (high - low) * (number + rng.random()) / count)
    prompt = f"a photo of {name_object(_any_object(rng, SOLID))} {PLACES['top']} on {SKY}"
    return prompt, f"row {y * FRAME_PX:.1f}", HorizonPosition(y), lambda i, found: horizon_distance_px(i, found, y)


def _depth(rng: np.random.Generator, number: int, count: int) -> Made:
    item = _any_object(rng, SOLID, without="red")  # red points could not be seen on it
    first, second = rng.permutation(len(QUARTERS))[:2].tolist()
    points = np.array([QUARTERS[first], QUARTERS[second]]) + rng.uniform(-0.04, 0.04, (2, 2))
    a, b = ((float(x), float(y)) for x, y in points)
    wanted = f"({a[0]:.2f}, {a[1]:.2f}) before ({b[0]:.2f}, {b[1]:.2f})"
    return f"a photo of {name_object(item)}", wanted, RelativeDepth(a, b), lambda _, found: lies_before(found, a, b)


def _layout(rng: np.random.Generator, number: int, count: int) -> Made:
    """One or two blocks where objects of the prompt stand, as a reference picture."""
    while True:
        caption = sample_training_caption(rng, {"colors": 0.5, "color_attr": 0.5})
        if sum(clause.count for clause in caption.clauses) <= 2:
            break
    drawn = sketch_of(sample_scene(rng, caption, 0.0))
    picture = np.dstack([drawn.sketch, np.full(drawn.sketch.shape[:2], 255, np.uint8)])
    overlay = ReferenceImage(picture, drawn.question)
    return caption.text, "a sketch", overlay, lambda _, found: layout_overlap(found, drawn.sketch)


def _any_object(rng: np.random.Generator, shapes: Sequence[str], stroke: float = 0.0, without: str = "") -> SceneObject:
    """In a shape and a colour that are not kept for benchmarks together."""
    colors = [name for name in COLORS if name != without]
    while True:
        shape, color = shapes[int(rng.integers(len(shapes)))], colors[int(rng.integers(len(colors)))]
        item = SceneObject(shape, color, FRAME_PX / 2, FRAME_PX / 2, 11.0, stroke)
        if not composes_reserved((item,)):
            return item


KINDS: dict[str, Kind] = {
    "color_palette": Kind("palette distance, RGB", "less", _palette),
    "line_weight": Kind("stroke off by, px", "less", _line_weight),
    "horizon_position": Kind("horizon off by, px", "less", _horizon),
    "relative_depth": Kind("A before B, share", "more", _depth),
    "layout": Kind("layout overlap, IoU", "more", _layout),
}


def references(kind: str, count: int) -> list[Reference]:
    """The same ones whenever as many are asked for."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([SEED, list(KINDS).index(kind), number])
        made.append(Reference(f"{kind}-{number}", *KINDS[kind].make(rng, number, count)))
    return made
