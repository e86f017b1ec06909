"""Scenes of the micro world with a visual prompt drawn over them, and whether the image does what it says.

What counts as agreement, by plain rules: the palette has exactly the objects' colours; the line is as thick as the
objects' outlines; the line stands at the horizon; point A lies on something nearer than point B does (an object is
nearer than the background, one that covers another is nearer than it); the sketch shows the objects as they stand.
An image in which what is asked about is missing (no object, no outline, no horizon) does not agree either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from inference.vlm.overlays import (
    STRIP_SHARE,
    ColorPalette,
    HorizonPosition,
    LineWeight,
    RelativeDepth,
    VisualComposition,
    VisualPrompt,
    draw_sketch,
)
from microworld.scenes.edits import sample_edit
from microworld.scenes.world import (
    COLORS,
    FRAME_PX,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    random_background,
    random_scene,
    render,
)

GROUND = (140, 140, 140)
STROKES_PX = (1.0, 1.8, 3.0)  # told apart at 32 px
HORIZONS_PX = (8.0, 24.0)  # where the world's horizons lie
MIN_HORIZON_GAP_PX = 5.0  # between a wrong line and the horizon
MIN_POINT_GAP_PX = 9.0  # between A and B: their letters stand beside them


@dataclass(frozen=True)
class OverlayCase:
    """A scene, what is drawn over its image, and whether they agree."""

    kind: str
    scene: Scene
    prompt: VisualPrompt
    agrees: bool


def palette_of(scene: Scene) -> ColorPalette:
    """Each colour of the objects once, in the world's order."""
    shown = {item.color for item in scene.objects}
    return ColorPalette(tuple(rgb for name, rgb in COLORS.items() if name in shown))


def sketch_of(scene: Scene) -> VisualComposition:
    """Every object's bounding square as a block of its colour."""
    blocks = []
    for item in scene.objects:
        x0, y0 = item.cx - item.size / 2, item.cy - item.size / 2
        box = (x0 / FRAME_PX, y0 / FRAME_PX, (x0 + item.size) / FRAME_PX, (y0 + item.size) / FRAME_PX)
        blocks.append((COLORS[item.color], box))
    return VisualComposition(draw_sketch(blocks, FRAME_PX, GROUND))


def sample_overlay(rng: np.random.Generator, kind: str = "", agrees: bool | None = None) -> OverlayCase:
    """An overlay of a kind, by default of any; agrees: by default one half of them does."""
    kinds = tuple(_KINDS)
    kind = kind or kinds[rng.integers(len(kinds))]
    return _KINDS[kind](rng, bool(rng.random() < 0.5) if agrees is None else agrees)


def sample_missing(rng: np.random.Generator, kind: str) -> OverlayCase:
    """An overlay over an image in which nothing is what it asks about, so that nothing contradicts it either."""
    prompt = _KINDS[kind](rng, True).prompt
    empty = Scene(random_background(rng, 0.3), ())
    match kind:
        case "horizon":
            top, bottom = (random_background(rng, 0.0).top for _ in range(2))
            ground = Background("gradient", top, bottom) if rng.random() < 0.3 else Background("plain", top, top)
            return OverlayCase(
                kind, replace(random_scene(rng, int(rng.integers(0, 3))), background=ground), prompt, False
            )
        case "line weight":
            return OverlayCase(kind, _above_the_strip(rng, 2) if rng.random() < 0.8 else empty, prompt, False)
        case _:
            return OverlayCase(kind, empty, prompt, False)


def _above_the_strip(rng: np.random.Generator, highest: int) -> Scene:
    """1 to `highest` objects, none of them where a palette or a line will be."""
    end = FRAME_PX * (1 - STRIP_SHARE)
    while True:
        scene = random_scene(rng, int(rng.integers(1, highest + 1)))
        if all(item.cy + item.size / 2 < end for item in scene.objects):
            return scene


def _palette(rng: np.random.Generator, agrees: bool) -> OverlayCase:
    scene = _above_the_strip(rng, 3)
    other = scene
    while not agrees and palette_of(other) == palette_of(scene):
        # One colour more, one less, or another one.
        other = sample_edit(rng, scene)[1] if rng.random() < 0.7 else random_scene(rng, int(rng.integers(1, 4)))
        other = other if other.objects else scene
    return OverlayCase("palette", scene, palette_of(other), agrees)


def _line_weight(rng: np.random.Generator, agrees: bool) -> OverlayCase:
    scene = _above_the_strip(rng, 2)
    stroke, other = rng.permutation(STROKES_PX)[:2].tolist()
    scene = replace(scene, objects=tuple(replace(item, stroke=stroke) for item in scene.objects))
    return OverlayCase("line weight", scene, LineWeight((stroke if agrees else other) / FRAME_PX), agrees)


def _horizon(rng: np.random.Generator, agrees: bool) -> OverlayCase:
    scene = random_scene(rng, int(rng.integers(0, 3)))
    horizon, line = rng.uniform(*HORIZONS_PX), rng.uniform(*HORIZONS_PX)
    while abs(line - horizon) < MIN_HORIZON_GAP_PX:
        line = rng.uniform(*HORIZONS_PX)
    ground = random_background(rng, 0.0).top
    while np.abs(np.subtract(ground, scene.background.top)).max() < 24:
        ground = random_background(rng, 0.0).top
    scene = replace(scene, background=Background("horizon", scene.background.top, ground, float(horizon)))
    return OverlayCase("horizon", scene, HorizonPosition(float(horizon if agrees else line) / FRAME_PX), agrees)


def _depth(rng: np.random.Generator, agrees: bool) -> OverlayCase:
    """Of two points one lies on something nearer: A in half of the cases."""
    scene = _one_before_another(rng) if rng.random() < 0.5 else random_scene(rng, int(rng.integers(1, 4)))
    if any(item.color == "red" for item in scene.objects):  # red points could not be seen
        return _depth(rng, agrees)
    masks = render([scene]).masks[0]
    depth = np.zeros((FRAME_PX, FRAME_PX), int)
    for number, mask in enumerate(masks, start=1):
        depth[mask] = number
    overlaps = len(scene.objects) == 2 and _overlap(*scene.objects)
    spots = [_spot(rng, depth == level) for level in range(len(masks) + 1)]
    levels = [level for level, spot in enumerate(spots) if spot is not None]
    # Two objects that stand apart have no order: one of the points is on the background then.
    pairs = [(low, high) for low in levels for high in levels if low < high and (low == 0 or overlaps)]
    if not pairs:
        return _depth(rng, agrees)
    far, near = (spots[level] for level in pairs[rng.integers(len(pairs))])
    if far is None or near is None or np.hypot(*np.subtract(far, near)) * FRAME_PX < MIN_POINT_GAP_PX:
        return _depth(rng, agrees)
    a, b = (near, far) if agrees else (far, near)
    return OverlayCase("depth", scene, RelativeDepth(a, b), agrees)


def _overlap(a: SceneObject, b: SceneObject) -> bool:
    return max(abs(a.cx - b.cx), abs(a.cy - b.cy)) < (a.size + b.size) / 2


def _one_before_another(rng: np.random.Generator) -> Scene:
    """Two filled objects of different colours, the later one covering a part of the first."""
    solid = [name for name in SHAPES if name not in ("ring", "cross")]
    shapes = [solid[i] for i in rng.integers(len(solid), size=2)]
    colors = rng.permutation(list(COLORS))[:2].tolist()
    size, angle = rng.uniform(11, 15, 2), rng.uniform(0, 2 * np.pi)
    cx, cy = rng.uniform(11, 21, 2)
    apart = 0.4 * size.sum()
    places = ((cx, cy), (cx + apart * np.cos(angle), cy + apart * np.sin(angle)))
    objects = tuple(
        SceneObject(shape, color, float(np.clip(x, 5, 27)), float(np.clip(y, 5, 27)), float(side))
        for shape, color, (x, y), side in zip(shapes, colors, places, size, strict=True)
    )
    return Scene(random_background(rng), objects)


def _spot(rng: np.random.Generator, area: np.ndarray) -> tuple[float, float] | None:
    """A point (x, y), as shares of the frame, at least a pixel inside `area`; None where there is none."""
    inner = area.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(area, step, axis)
    inner[:2], inner[-2:], inner[:, :2], inner[:, -2:] = False, False, False, False
    rows, columns = np.nonzero(inner)
    if not len(rows):
        return None
    pick = rng.integers(len(rows))
    return (columns[pick] + 0.5) / FRAME_PX, (rows[pick] + 0.5) / FRAME_PX


def _composition(rng: np.random.Generator, agrees: bool) -> OverlayCase:
    scene = random_scene(rng, int(rng.integers(1, 4)))
    other = scene
    while not agrees and np.abs(sketch_of(other).sketch.astype(int) - sketch_of(scene).sketch).max() < 60:
        other = sample_edit(rng, scene)[1] if rng.random() < 0.7 else random_scene(rng, len(scene.objects))
    return OverlayCase("composition", scene, sketch_of(other), agrees)


_KINDS: dict[str, Callable[[np.random.Generator, bool], OverlayCase]] = {
    "palette": _palette,
    "line weight": _line_weight,
    "horizon": _horizon,
    "depth": _depth,
    "composition": _composition,
}
