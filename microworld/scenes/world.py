"""A seeded renderer of small scenes of coloured shapes, with exact ground truth.

Coordinates are pixels of the 32-px frame, x to the right, y downwards, (0, 0) the top left corner. Scenes are
vector descriptions: `render` draws them at any size. Drawing is vectorised over all objects of a batch that have
the same shape (local supersampled patches), then composited layer by layer, back to front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

Rgb = tuple[int, int, int]

FRAME_PX = 32
SUPERSAMPLING = 4  # sub-samples a pixel and axis: a 32-px frame is drawn as 128 px
MIN_GAP_PX = 1.5  # between bounding squares: masks never touch, also after the VAE has blurred them a little
MIN_SIZE_PX, MAX_SIZE_PX = 8.0, 14.0
MAX_OBJECTS = 4


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x * x + y * y <= 1.0


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) <= 0.92) & (np.abs(y) <= 0.92)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y <= 0.9) & (2.0 * np.abs(x) <= y + 1.0)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points; folded into one tenth of the circle, where the edge is one straight line."""
    inner_radius, half_angle = 0.48, np.pi / 5
    y = y + 0.05  # the lowest points are higher than the top one is low: centre the bounding box
    angle = np.abs(np.mod(np.arctan2(x, -y) + half_angle, 2 * half_angle) - half_angle)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    ix, iy = inner_radius * np.cos(half_angle), inner_radius * np.sin(half_angle)
    return (1.05 - px) * iy - py * (1.05 - ix) >= 0.0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = 1.14 * x, 0.1 - 1.12 * y
    r2 = u * u + v * v - 1.0
    return r2 * r2 * r2 <= u * u * v * v * v


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(x) + np.abs(y) <= 1.0


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(x), np.abs(y)
    return ((ax <= 0.34) & (ay <= 1.0)) | ((ay <= 0.34) & (ax <= 1.0))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    r2 = x * x + y * y
    return (r2 <= 1.0) & (r2 >= 0.27)


# Local coordinates x, y in [-1, 1] (broadcastable arrays, y downwards) -> bool, inside or not.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
}


def between(shape: str, other: str, way: float, lean: float = 0.0, toward_degrees: float = 0.0) -> str:
    """The name of what is no shape any more: from `shape` the `way` (0..1) to `other`, farther by `lean` on the side
    `toward_degrees` (0 right, 90 down) and less far by as much on the other. `render` draws it; no caption is true of
    it."""
    return f"{shape}~{other}~{way:.2f}~{lean:.2f}~{toward_degrees:.0f}"


_DEGREES, _REACH = 720, 1.5  # directions of a contour, and how far from the centre it is looked for


@cache
def _radii(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the inner (0 without a hole) and of the outer contour from the centre, float64 (_DEGREES,) each."""
    angle = np.arange(_DEGREES) * (2 * np.pi / _DEGREES)
    radius = np.linspace(0, _REACH, 1500)
    inside = SHAPES[shape](np.cos(angle)[:, None] * radius, np.sin(angle)[:, None] * radius)
    outer = radius[len(radius) - 1 - inside[:, ::-1].argmax(1)]
    return radius[inside.argmax(1)], outer


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of a shape, or of what is `between` two."""
    if shape in SHAPES:
        return SHAPES[shape](x, y)
    first, second, way, lean, toward = shape.split("~")
    angle = np.arctan2(y, x)
    index = np.rint(angle * (_DEGREES / (2 * np.pi))).astype(int) % _DEGREES
    share = np.clip(float(way) + float(lean) * np.cos(angle - np.deg2rad(float(toward))), 0, 1)
    inner, outer = (
        (1 - share) * a[index] + share * b[index] for a, b in zip(_radii(first), _radii(second), strict=True)
    )
    radius = np.hypot(x, y)
    return (radius >= inner) & (radius <= outer)


COLORS: dict[str, Rgb] = {
    "red": (222, 32, 38),
    "orange": (255, 140, 0),
    "yellow": (255, 232, 30),
    "green": (24, 158, 52),
    "blue": (28, 72, 224),
    "purple": (142, 36, 170),
    "black": (16, 16, 18),
    "white": (250, 250, 250),
}


@dataclass(frozen=True)
class Background:
    """`plain` uses `top` alone; `gradient` runs from `top` to `bottom`; `horizon` changes at `horizon_px`."""

    kind: str = "plain"  # plain | gradient | horizon
    top: Rgb = (140, 140, 140)
    bottom: Rgb = (140, 140, 140)
    horizon_px: float = 16.0


@dataclass(frozen=True)
class SceneObject:
    """One shape; `cx`, `cy` its centre and `size` the side of its bounding square, in px of the 32-px frame.

    `shape` is one of `SHAPES`, or what is `between` two of them. `stroke` is 0 for a filled shape; otherwise only an
    outline of that many px is drawn, inward from the edge.
    """

    shape: str
    color: str
    cx: float
    cy: float
    size: float
    stroke: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A background and objects, back to front."""

    background: Background
    objects: tuple[SceneObject, ...]


@dataclass
class Rendered:
    """`images` uint8 (B, H, W, 3); per scene: visible `masks` bool (n, H, W) and `boxes` float32 (n, 4) xyxy px.

    A pixel belongs to an object that covers at least half of it and is covered by no later object in that way.
    A box is tight around its mask (x1, y1 exclusive); an object that cannot be seen has an all-zero box.
    """

    images: np.ndarray
    masks: list[np.ndarray] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)


def _draw_backgrounds(scenes: Sequence[Scene], size_px: int) -> np.ndarray:
    """float32 (B, H, W, 3) in [0, 255]."""
    top = np.array([s.background.top for s in scenes], np.float32)[:, None, :]
    bottom = np.array([s.background.bottom for s in scenes], np.float32)[:, None, :]
    rows = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    weight = np.zeros((len(scenes), size_px, 1), np.float32)
    for i, scene in enumerate(scenes):
        background = scene.background
        if background.kind == "gradient":
            weight[i, :, 0] = rows
        elif background.kind == "horizon":
            weight[i, :, 0] = np.clip(rows * size_px - background.horizon_px * size_px / FRAME_PX + 0.5, 0, 1)
        elif background.kind != "plain":
            raise ValueError(f"unknown background kind {background.kind!r}; expected plain, gradient or horizon")
    lines = top * (1 - weight) + bottom * weight
    return np.repeat(lines[:, :, None, :], size_px, axis=2)


def _interior(inside: np.ndarray, depth_px: float) -> np.ndarray:
    """What lies deeper than `depth_px` inside: bool (P, P) of supersampled bool (P, P); erosion by a disc."""
    reach = int(np.ceil(depth_px * SUPERSAMPLING))
    padded = np.pad(inside, reach)
    side = len(inside)
    deep = inside.copy()
    for radius in (0.5 * depth_px, depth_px):  # two circles of directions stand for the disc
        for angle in np.arange(16) * (np.pi / 8):
            dx = round(radius * SUPERSAMPLING * np.cos(angle)) + reach
            dy = round(radius * SUPERSAMPLING * np.sin(angle)) + reach
            deep &= padded[dy : dy + side, dx : dx + side]
    return deep


def _coverage(
    shape: str, cx: np.ndarray, cy: np.ndarray, size: np.ndarray, stroke: np.ndarray, patch_px: int
) -> np.ndarray:
    """Share of each patch pixel drawn: float32 (n, P, P). Centres are relative to the patch, all lengths in px."""
    ss = SUPERSAMPLING
    grid = (np.arange(patch_px * ss, dtype=np.float32) + 0.5) / ss
    half = (size / 2)[:, None]
    x = ((grid[None] - cx[:, None]) / half)[:, None, :]
    y = ((grid[None] - cy[:, None]) / half)[:, :, None]
    inside = np.broadcast_to(_inside(shape, x, y), (len(cx), patch_px * ss, patch_px * ss))
    outlined = np.flatnonzero(stroke > 0)
    if len(outlined):
        inside = inside.copy()
    for i in outlined:
        inside[i] &= ~_interior(inside[i], float(stroke[i]))
    inside = inside.view(np.uint8)
    total = np.zeros((len(cx), patch_px, patch_px), np.uint8)
    for i in range(ss):
        for j in range(ss):
            total += inside[:, i::ss, j::ss]
    return total.astype(np.float32) / (ss * ss)


def render(scenes: Sequence[Scene], size_px: int = FRAME_PX) -> Rendered:
    """Draw `scenes` at `size_px` x `size_px`; see `Rendered` for what comes back."""
    num_scenes = len(scenes)
    if num_scenes == 0:
        return Rendered(np.zeros((0, size_px, size_px, 3), np.uint8))
    objects = [(b, k, o) for b, s in enumerate(scenes) for k, o in enumerate(s.objects)]
    backgrounds = _draw_backgrounds(scenes, size_px)
    if not objects:
        empty = [np.zeros((0, size_px, size_px), bool)] * num_scenes
        return Rendered(np.rint(backgrounds).astype(np.uint8), empty, [np.zeros((0, 4), np.float32)] * num_scenes)

    scale = size_px / FRAME_PX
    batch = np.array([b for b, _, _ in objects])
    layer = np.array([k for _, k, _ in objects])
    shape_names = np.array([o.shape for _, _, o in objects])
    colors = np.array([COLORS[o.color] for _, _, o in objects], np.float32)
    geometry = np.array([(o.cx, o.cy, o.size, o.stroke) for _, _, o in objects], np.float32) * np.float32(scale)
    cx, cy, size, stroke = geometry.T

    patch_px = int(np.ceil(size.max())) + 2
    # The canvas has a margin so that objects may stand anywhere, also partly or wholly outside the frame.
    margin = patch_px
    left = np.clip(np.floor(cx - patch_px / 2).astype(int), -margin, size_px)
    top = np.clip(np.floor(cy - patch_px / 2).astype(int), -margin, size_px)
    coverage = np.empty((len(objects), patch_px, patch_px), np.float32)
    for shape in dict.fromkeys(shape_names.tolist()):
        index = np.flatnonzero(shape_names == shape)
        x, y = cx[index] - left[index], cy[index] - top[index]
        coverage[index] = _coverage(shape, x, y, size[index], stroke[index], patch_px)

    canvas_px = size_px + 2 * margin
    canvas = np.zeros((num_scenes, canvas_px, canvas_px, 3), np.float32)
    inner = slice(margin, margin + size_px)
    canvas[:, inner, inner] = backgrounds
    owner = np.full((num_scenes, canvas_px, canvas_px), -1, np.int16)
    offsets = np.arange(patch_px)
    for k in range(int(layer.max()) + 1):
        index = np.flatnonzero(layer == k)
        where = (
            batch[index][:, None, None],
            (top[index] + margin)[:, None, None] + offsets[None, :, None],
            (left[index] + margin)[:, None, None] + offsets[None, None, :],
        )
        alpha = coverage[index][..., None]
        canvas[where] = canvas[where] * (1 - alpha) + colors[index][:, None, None, :] * alpha
        owner[where] = np.where(coverage[index] >= 0.5, k, owner[where])

    images = np.rint(canvas[:, inner, inner]).astype(np.uint8)
    owner = owner[:, inner, inner]
    visible = owner[batch] == layer[:, None, None]  # (objects, H, W)
    boxes = _tight_boxes(visible)
    splits = np.cumsum([len(s.objects) for s in scenes])[:-1]
    return Rendered(images, np.split(visible, splits), np.split(boxes, splits))


def _tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes float32 (n, 4) xyxy around bool masks (n, H, W); zeros for an empty mask."""
    columns, rows = np.any(masks, axis=1), np.any(masks, axis=2)
    width, height = columns.shape[1], rows.shape[1]
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1, y1 = width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)
    return np.stack([x0, y0, x1, y1], 1).astype(np.float32) * np.any(columns, axis=1)[:, None]


def random_background(rng: np.random.Generator, varied_share: float = 0.1) -> Background:
    """A muted mid tone; with probability `varied_share` a gradient or a horizon of two of them."""

    def tone() -> Rgb:
        red, green, blue = np.clip(rng.uniform(110, 170) + rng.uniform(-14, 14, 3), 96, 184).astype(int).tolist()
        return red, green, blue

    top = tone()
    if rng.random() >= varied_share:
        return Background("plain", top, top)
    kind = "gradient" if rng.random() < 0.5 else "horizon"
    return Background(kind, top, tone(), float(rng.uniform(10, 24)))


def place_objects(
    rng: np.random.Generator, num_objects: int, accept: Callable[[np.ndarray], bool] | None = None
) -> np.ndarray:
    """Squares that keep their distance inside the frame: float64 (n, 3) of cx, cy, size, in px.

    `accept` may refuse a whole layout (a position that the caption asks for). Every try draws afresh; sizes are
    smaller where more objects must fit.
    """
    if not 0 <= num_objects <= MAX_OBJECTS:
        raise ValueError(f"num_objects must be 0..{MAX_OBJECTS}, got {num_objects}")
    largest = (MAX_SIZE_PX, MAX_SIZE_PX, 13.0, 12.0, 11.0)[num_objects]
    while True:
        sizes = rng.uniform(MIN_SIZE_PX, largest, num_objects)
        margin = sizes / 2 + 0.5
        placed = np.empty((num_objects, 3))
        for i in range(num_objects):
            # Draw several centres for this object at once and take the first that keeps its distance.
            centres = rng.uniform(margin[i], FRAME_PX - margin[i], (12, 2))
            apart = np.abs(centres[:, None] - placed[None, :i, :2]).max(-1)
            free = (apart >= (sizes[i] + sizes[:i]) / 2 + MIN_GAP_PX).all(1)
            if not free.any():
                break
            placed[i] = *centres[free.argmax()], sizes[i]
        else:
            if accept is None or accept(placed):
                return placed


def random_scene(rng: np.random.Generator, num_objects: int | None = None) -> Scene:
    """1-4 objects (or exactly `num_objects`) of any shapes and colours, apart from each other, inside the frame."""
    if num_objects is None:
        num_objects = int(rng.integers(1, MAX_OBJECTS + 1))
    shapes, colors = list(SHAPES), list(COLORS)
    objects = tuple(
        SceneObject(
            shapes[rng.integers(len(shapes))], colors[rng.integers(len(colors))], float(cx), float(cy), float(size)
        )
        for cx, cy, size in place_objects(rng, num_objects)
    )
    return Scene(random_background(rng), objects)
