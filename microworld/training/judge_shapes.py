"""Well drawn, damaged and malformed shapes for the judge, and which of the three each one is.

Every shape is a mask on one fine grid, the *unit frame*: x, y in [-EXTENT, EXTENT], a shape of the world fills
[-1, 1]. Damage comes in all strengths, so what a shape still is cannot be read from how it was made: `classify`
compares the mask with the eight shapes, each fitted to it. Clearly one shape keeps its class, clearly none is
malformed, and what people would argue about is left out of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from microworld.scenes.world import SHAPES

EXTENT = 1.4
GRID = 72  # samples a side of the unit frame: 5 a pixel for a shape of 10 px
STEP = 2 * EXTENT / GRID
SHAPE_NAMES = tuple(SHAPES)
MALFORMED = len(SHAPE_NAMES)  # class numbers: 0..7 the shapes, 8 malformed
UNDECIDED = 255

# Mean distance between the contours of a mask and of a shape, as a share of the shape's size, and the largest local
# difference (blurred by LOCAL_SIGMA). The nearest two shapes are .04 apart.
KEPT_DISTANCE, KEPT_LOCAL, KEPT_MARGIN = 0.016, 0.38, 0.016
BAD_DISTANCE, BAD_LOCAL, BAD_MARGIN = 0.030, 0.58, 0.004
LENIENT_DISTANCE, LENIENT_LOCAL = 0.042, 0.72  # instead, where the whole contour gives a little
LOCAL_SIGMA = 0.2

_axis = (np.arange(GRID, dtype=np.float32) + 0.5) * STEP - EXTENT
_X, _Y = np.broadcast_to(_axis[None, None, :], (1, GRID, GRID)), np.broadcast_to(_axis[None, :, None], (1, GRID, GRID))


@cache
def _unit_shapes() -> dict[str, tuple[float, float, float, float]]:
    """Of each shape in the unit frame: area, centroid x and y, length of its contour."""
    found = {}
    for name, inside in SHAPES.items():
        fine = (np.arange(800, dtype=np.float64) + 0.5) / 320 - 1.25
        mask = np.broadcast_to(inside(fine[None, :], fine[:, None]), (800, 800))
        rows, columns = np.nonzero(mask)
        # The gradient of the blurred mask integrates to the contour's length, in any direction.
        slopes = np.gradient(gaussian_filter(mask.astype(np.float64), 3.0))
        length = float(np.hypot(*slopes).sum()) / 320
        found[name] = (len(rows) / 320**2, float(fine[columns].mean()), float(fine[rows].mean()), length)
    return found


def _blur(masks: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """float32 (n, GRID, GRID); sigma in units of the frame, one for all or one for each (then rounded to five)."""
    if np.ndim(sigma) == 0:
        return gaussian_filter(masks.astype(np.float32), (0, float(sigma) / STEP, float(sigma) / STEP), truncate=3.0)
    sigma = np.asarray(sigma)
    levels = np.quantile(sigma, [0.1, 0.3, 0.5, 0.7, 0.9])
    nearest = np.abs(sigma[:, None] - levels).argmin(1)
    out = np.empty(masks.shape, np.float32)
    for k in np.unique(nearest):
        out[nearest == k] = _blur(masks[nearest == k], float(levels[k]))
    return out


def _smooth_noise(rng: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    """Gaussian random fields of unit variance, float32 (count, GRID, GRID)."""
    field = _blur(rng.standard_normal((count, GRID, GRID), np.float32), sigma)
    return field / field.std((1, 2), keepdims=True)


def draw_shapes(shapes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """bool (n, GRID, GRID): shape number `shapes[i]` at coordinates x[i], y[i]."""
    masks = np.empty((len(shapes), GRID, GRID), bool)
    for number in np.unique(shapes):
        rows = np.flatnonzero(shapes == number)
        masks[rows] = SHAPES[SHAPE_NAMES[number]](x[rows], y[rows])
    return masks


def _others(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    return (shapes + rng.integers(1, len(SHAPE_NAMES), len(shapes))) % len(SHAPE_NAMES)


def _uniform(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    """float32 (count, 1, 1)."""
    return rng.uniform(low, high, count).astype(np.float32)[:, None, None]


def bend(rng: np.random.Generator, count: int, amplitude: np.ndarray, turn: np.ndarray, stretch: np.ndarray):
    """Coordinates of a bent frame: smooth displacement (amplitude), rotation (turn, radians), stretching along a
    random axis (upright, level or diagonal). All (count, 1, 1)."""
    axis = _uniform(rng, 0, 4, count).astype(int) * np.float32(np.pi / 4)
    cos, sin = np.cos(axis), np.sin(axis)
    along, across = (_X * cos + _Y * sin) / np.sqrt(stretch), (_Y * cos - _X * sin) * np.sqrt(stretch)
    x, y = along * cos - across * sin, along * sin + across * cos
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = x * cos + y * sin, y * cos - x * sin
    sigma = float(rng.uniform(0.2, 0.6))
    return (
        x + amplitude * _smooth_noise(rng, count, sigma),
        y + amplitude * _smooth_noise(rng, count, sigma),
    )


def _plain(rng: np.random.Generator, shapes: np.ndarray, much: float = 0.0) -> np.ndarray:
    """As well drawn as a good generator draws: not quite straight, not quite upright."""
    count = len(shapes)
    amplitude, turn = _uniform(rng, 0, 0.04 + much, count), _uniform(rng, -0.06, 0.06, count)
    stretch = np.exp(_uniform(rng, -0.06, 0.06, count))
    return draw_shapes(shapes, *bend(rng, count, amplitude, turn, stretch))


def _wobbly(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    return _plain(rng, shapes, much=0.3)


def _stretched(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    count = len(shapes)
    stretch = np.exp(_uniform(rng, -0.75, 0.75, count))
    return draw_shapes(
        shapes, *bend(rng, count, _uniform(rng, 0, 0.04, count), _uniform(rng, -0.1, 0.1, count), stretch)
    )


def _turned(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    count = len(shapes)
    ones = np.ones((count, 1, 1), np.float32)
    return draw_shapes(shapes, *bend(rng, count, 0.03 * ones, _uniform(rng, -np.pi, np.pi, count), ones))


def _halved(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """One shape here, another there: on two sides of a line, in a quadrant, in a stripe, inside a disc."""
    count = len(shapes)
    first, second = _plain(rng, shapes), _plain(rng, _others(rng, shapes))
    angle, offset = _uniform(rng, 0, 2 * np.pi, count), _uniform(rng, -0.5, 0.5, count)
    along, across = _X * np.cos(angle) + _Y * np.sin(angle), _Y * np.cos(angle) - _X * np.sin(angle)
    kind = rng.integers(0, 4, count)[:, None, None]
    disc = np.hypot(_X - offset, _Y) < _uniform(rng, 0.4, 0.8, count)
    there = np.select(
        [kind == 0, kind == 1, kind == 2],
        [along > offset, (along > offset) & (across > offset), np.abs(along) < 0.25 + np.abs(offset) / 2],
        disc,
    )
    return np.where(there, second, first)


def _morphed(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Between two shapes."""
    count = len(shapes)
    weight = _uniform(rng, 0.1, 0.6, count)
    first, second = _blur(_plain(rng, shapes), 0.25), _blur(_plain(rng, _others(rng, shapes)), 0.25)
    return (1 - weight) * first + weight * second > 0.5


def _bitten(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Discs taken out of the edge or the middle."""
    masks = _plain(rng, shapes)
    for chance in (1.0, 0.4):
        count = len(shapes)
        angle, away = _uniform(rng, 0, 2 * np.pi, count), _uniform(rng, 0, 1.1, count)
        near = np.hypot(_X - away * np.cos(angle), _Y - away * np.sin(angle)) < _uniform(rng, 0.1, 0.65, count)
        masks &= ~(near & (rng.random((count, 1, 1)) < chance))
    return masks


def _erased(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Only what lies on one side of a line."""
    count = len(shapes)
    angle = _uniform(rng, 0, 2 * np.pi, count)
    keep = _X * np.cos(angle) + _Y * np.sin(angle) < _uniform(rng, -0.3, 1.0, count)
    return _plain(rng, shapes) & keep


def _grown(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """With a lump or a bar."""
    count = len(shapes)
    angle, away = _uniform(rng, 0, 2 * np.pi, count), _uniform(rng, 0.4, 1.1, count)
    lump = np.hypot(_X - away * np.cos(angle), _Y - away * np.sin(angle)) < _uniform(rng, 0.1, 0.6, count)
    along, across = _X * np.cos(angle) + _Y * np.sin(angle), _Y * np.cos(angle) - _X * np.sin(angle)
    bar = (along > 0) & (along < 1.3) & (np.abs(across) < _uniform(rng, 0.08, 0.3, count))
    return _plain(rng, shapes) | np.where(rng.random((count, 1, 1)) < 0.6, lump, bar)


def _ragged(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    soft = _blur(_plain(rng, shapes), 0.12)
    noise = _smooth_noise(rng, len(shapes), float(rng.uniform(0.06, 0.16)))
    return soft + _uniform(rng, 0.05, 0.35, len(shapes)) * noise > 0.5


def _rounded(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Corners and gaps gone."""
    return _blur(_plain(rng, shapes, much=0.05), rng.uniform(0.08, 0.45, len(shapes))) > 0.5


def _blob(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """A random closed curve, smooth or with straight edges; no shape at all, or one by accident."""
    count = len(shapes)
    angle = np.arctan2(_Y, _X)
    radius = np.full((count, GRID, GRID), 0.75, np.float32)
    for order in range(1, 6):
        radius += _uniform(rng, 0, 0.35 / order**0.5, count) * np.cos(order * angle + _uniform(rng, 0, 6.3, count))
    corners = np.sort(rng.uniform(0, 2 * np.pi, (count, 6)), 1).astype(np.float32)
    edges = np.full((count, GRID, GRID), 9.0, np.float32)
    for k in range(corners.shape[1]):
        direction = corners[:, k, None, None]
        edges = np.minimum(edges, _uniform(rng, 0.35, 1.0, count) - _X * np.cos(direction) - _Y * np.sin(direction))
    smooth = (np.hypot(_X, _Y) < radius) & (np.maximum(np.abs(_X), np.abs(_Y)) < 1.2)
    angular = (edges > 0) & (np.maximum(np.abs(_X), np.abs(_Y)) < 1.1)
    return np.where(rng.random((count, 1, 1)) < 0.6, smooth, angular)


def _fused(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    """Two shapes grown together, now and then by a bridge; smoothed where they meet."""
    count = len(shapes)
    angle, away = _uniform(rng, 0, 2 * np.pi, count), _uniform(rng, 0.3, 0.62, count)
    dx, dy = away * np.cos(angle), away * np.sin(angle)
    scale = 1 / _uniform(rng, 0.5, 0.7, count)
    seconds = np.where(rng.random(count) < 0.5, shapes, _others(rng, shapes))
    first = draw_shapes(shapes, (_X - dx) * scale, (_Y - dy) * scale)
    second = draw_shapes(seconds, (_X + dx) * scale, (_Y + dy) * scale)
    along, across = _X * np.cos(angle) + _Y * np.sin(angle), _Y * np.cos(angle) - _X * np.sin(angle)
    bridge = (np.abs(along) < away) & (np.abs(across) < _uniform(rng, 0.1, 0.4, count))
    return _blur(first | second | bridge, 0.08) > 0.5


def _outlined(rng: np.random.Generator, shapes: np.ndarray) -> np.ndarray:
    masks = _plain(rng, shapes)
    inner = _blur(masks, 0.3) > rng.uniform(0.65, 0.88, (len(shapes), 1, 1))
    return masks & ~inner


# What bends a whole contour leaves a shape recognisable for longer than what puts something strange into it.
LENIENT_KINDS = ("wobbly", "rounded", "stretched", "turned", "ragged")

# Kind -> (share of the damaged objects, how it is drawn).
KINDS: dict[str, tuple[float, Callable[[np.random.Generator, np.ndarray], np.ndarray]]] = {
    "plain": (0.0, _plain),
    "wobbly": (0.15, _wobbly),
    "rounded": (0.09, _rounded),
    "stretched": (0.07, _stretched),
    "turned": (0.05, _turned),
    "halved": (0.14, _halved),
    "morphed": (0.12, _morphed),
    "bitten": (0.07, _bitten),
    "erased": (0.05, _erased),
    "grown": (0.05, _grown),
    "ragged": (0.06, _ragged),
    "blob": (0.05, _blob),
    "fused": (0.06, _fused),
    "outlined": (0.04, _outlined),
}


def draw_masks(rng: np.random.Generator, shapes: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """shapes int (n,), kinds (n,) names out of `KINDS` -> masks bool (n, GRID, GRID), classes uint8 (n,): 0..7 the
    shape that a person would name, `MALFORMED`, or `UNDECIDED`."""
    masks = np.empty((len(shapes), GRID, GRID), bool)
    classes = shapes.astype(np.uint8)
    for kind, (_, draw) in KINDS.items():
        rows = np.flatnonzero(kinds == kind)
        if len(rows) == 0:
            continue
        masks[rows] = draw(rng, shapes[rows])
        if kind != "plain":
            classes[rows] = classify(masks[rows], lenient=kind in LENIENT_KINDS)
        if kind == "outlined":
            # A person names an outline by its contour, and calls a circle's a ring.
            circles = shapes[rows] == SHAPE_NAMES.index("circle")
            rings = shapes[rows] == SHAPE_NAMES.index("ring")
            classes[rows] = np.where(circles | rings, np.where(rings, UNDECIDED, classes[rows]), shapes[rows])
        if kind == "turned":
            # Turned triangles, hearts and stars are still called so by many.
            lenient = np.isin(shapes[rows], [SHAPE_NAMES.index(name) for name in ("triangle", "heart", "star")])
            classes[rows] = np.where(lenient & (classes[rows] == MALFORMED), UNDECIDED, classes[rows])
        if kind == "fused":
            classes[rows] = np.where(classes[rows] == MALFORMED, MALFORMED, UNDECIDED)
    return masks, classes


def classify(masks: np.ndarray, lenient: bool = False) -> np.ndarray:
    """uint8 (n,): which shape a mask clearly is, `MALFORMED` where it clearly is none, else `UNDECIDED`."""
    distances, local = measure(masks)
    order = np.sort(distances, 1)
    best, margin = distances.argmin(1), order[:, 1] - order[:, 0]
    nearest, peak = order[:, 0], local[np.arange(len(masks)), best]
    far, different = (LENIENT_DISTANCE, LENIENT_LOCAL) if lenient else (BAD_DISTANCE, BAD_LOCAL)
    kept = (nearest <= KEPT_DISTANCE) & (peak <= KEPT_LOCAL) & (margin >= KEPT_MARGIN)
    bad = (nearest >= far) | (peak >= different) | ((margin <= BAD_MARGIN) & (nearest > KEPT_DISTANCE / 2))
    return np.select([kept, bad], [best, MALFORMED], UNDECIDED).astype(np.uint8)


def measure(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each mask (n, GRID, GRID) is from each shape, float32 (n, 8) twice: the mean distance of the contours as
    a share of the size, and the largest local difference in [0, 1].

    Each shape is fitted twice, by area and centroid and in the place it would have undamaged; the better one counts.
    """
    count = len(masks)
    area = masks.sum((1, 2)) * STEP**2
    weight = np.maximum(masks.sum((1, 2)), 1)
    centre_x = (masks.sum(1) * _axis).sum(1) / weight
    centre_y = (masks.sum(2) * _axis).sum(1) / weight
    distances = np.empty((count, len(SHAPE_NAMES)), np.float32)
    local = np.empty((count, len(SHAPE_NAMES)), np.float32)
    for number, (name, inside) in enumerate(SHAPES.items()):
        unit_area, right, down, length = _unit_shapes()[name]
        fitted = np.sqrt(np.maximum(area, 1e-3) / unit_area)
        fits = [(fitted, centre_x - right * fitted, centre_y - down * fitted), (np.ones(count), 0 * area, 0 * area)]
        best = np.full(count, np.inf)
        difference = np.zeros((count, GRID, GRID), bool)
        for scale, x0, y0 in fits:
            x = (_axis[None, None, :] - x0[:, None, None]) / scale[:, None, None]
            y = (_axis[None, :, None] - y0[:, None, None]) / scale[:, None, None]
            differs = inside(x.astype(np.float32), y.astype(np.float32)) ^ masks
            distance = differs.sum((1, 2)) * STEP**2 / (length * scale) / (2 * scale)
            better = distance < best
            best, difference[better] = np.where(better, distance, best), differs[better]
        distances[:, number] = best
        # Blurring is dear; it matters only where a mask may be this shape.
        near = best < LENIENT_DISTANCE
        local[:, number] = 1.0
        if near.any():
            local[near, number] = _blur(difference[near], LOCAL_SIGMA).max((1, 2))
    return distances, local
