"""Training images for the judge: scenes of good, damaged and malformed shapes that look like generated ones.

Nothing here is shared with the training data of the models that a search uses (`grounding_data`): own layouts, own
damage, own degradation. Every pixel is labelled; shapes that stand apart are labelled apart, shapes that touch are one
malformed thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from inference.grounding.pixel_color import srgb_to_lab
from microworld.scenes.world import COLORS, FRAME_PX, Scene, random_background, render
from microworld.training.judge_shapes import EXTENT, GRID, KINDS, MALFORMED, SHAPE_NAMES, UNDECIDED, draw_masks

# Pixel labels: 0 background, 1..8 the shapes, 9 malformed, and two that are no class:
NO_SHAPE = 254  # background or malformed, whichever: textures, ghosts, specks
IGNORED = 255
LABEL_NAMES = ("background", *SHAPE_NAMES, "malformed")

# Colour classes: the world's, then "mixed" (two colours, or none that has a name).
COLOR_LABELS = (*COLORS, "mixed")
MIXED, UNDECIDED_COLOR = len(COLORS), 255

MAX_OBJECTS = 5
LOST_MSE = 600.0  # 20 dB
_PALETTE = np.array(list(COLORS.values()), np.float32)
Degrade = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) -> the same


@dataclass(frozen=True)
class JudgeDataConfig:
    """Shares of images or objects."""

    num_objects: tuple[float, ...] = (0.04, 0.26, 0.32, 0.2, 0.16, 0.02)  # 0, 1, ... objects
    plain_share: float = 0.44  # objects drawn as well as a good generator draws; the rest is damaged in every strength
    close_share: float = 0.12  # scenes whose objects may touch or overlap
    texture_share: float = 0.05  # images without an object, full of something
    small_share: float = 0.03  # objects of 2.5 to 7 px
    ghost_share: float = 0.03  # objects half transparent or more
    varied_background_share: float = 0.3
    two_tone_share: float = 0.1
    odd_color_share: float = 0.14  # blended with another colour
    vae_share: float = 0.6


@dataclass
class JudgeImages:
    """images uint8 (N, 32, 32, 3); labels and instances (0 none, then 1, 2, ...) uint8 (N, 32, 32); per instance
    (N, MAX_OBJECTS): classes (0..7, `MALFORMED`, `UNDECIDED`) and colors (0..7, `MIXED`, `UNDECIDED_COLOR`), both 255
    where there is none."""

    images: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    classes: np.ndarray
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, index: np.ndarray) -> JudgeImages:
        return JudgeImages(*(getattr(self, f.name)[index] for f in fields(self)))


# What a training starts with: first the shapes, then what is none. Malformed shapes from the start keep a network for
# long on the plateau where everything is malformed.
EASY = JudgeDataConfig(plain_share=0.9, close_share=0.0, texture_share=0.02, small_share=0.0, ghost_share=0.0)


def make_images(
    rng: np.random.Generator, count: int, config: JudgeDataConfig = JudgeDataConfig(), degrade: Degrade | None = None
) -> JudgeImages:
    """`count` fresh images; `degrade` stands for what a generator's decoder and a camera would do to them."""
    owner, layer, squares = _place(rng, count, config)
    images = render([Scene(random_background(rng, config.varied_background_share), ()) for _ in range(count)]).images
    canvas = images.astype(np.float32)
    instances = np.zeros((count, FRAME_PX, FRAME_PX), np.uint8)
    classes = np.full((count, MAX_OBJECTS), UNDECIDED, np.uint8)
    colors = np.full((count, MAX_OBJECTS), UNDECIDED_COLOR, np.uint8)
    ghosts = np.zeros((count, MAX_OBJECTS), bool)
    for k in range(MAX_OBJECTS):
        rows = np.flatnonzero(layer == k)
        if len(rows) == 0:
            continue
        at = owner[rows]
        coverage, classes[at, k] = _draw_objects(rng, squares[rows], config.plain_share)
        paint, colors[at, k] = _paint(rng, squares[rows], coverage, config)
        small = squares[rows, 2] < 7.0
        faint = rng.random(len(rows)) < config.ghost_share
        opacity = np.where(faint, rng.uniform(0.1, 0.85, len(rows)), 1.0).astype(np.float32)
        classes[at, k] = np.where(small | (opacity < 0.75), UNDECIDED, classes[at, k])
        ghosts[at, k] = (squares[rows, 2] < 4.5) | (opacity < 0.45)
        colors[at, k] = np.where(opacity < 0.95, UNDECIDED_COLOR, colors[at, k])
        alpha = (coverage * opacity[:, None, None])[..., None]
        canvas[at] = canvas[at] * (1 - alpha) + paint * alpha
        instances[at] = np.where(coverage >= 0.5, k + 1, instances[at])
    _judge_touching(instances, classes, colors)
    labels = _label(instances, classes, ghosts)
    images = np.rint(canvas).astype(np.uint8)
    textured = np.flatnonzero(rng.random(count) < config.texture_share)
    images[textured], labels[textured], instances[textured] = _textures(rng, images[textured]), NO_SHAPE, 0
    if degrade is not None:
        sharp, images = images, degrade(rng, images)
        # A VAE falls apart now and then: what is left then is a texture, and objects cannot be told any more.
        lost = ((images.astype(np.float32) - sharp) ** 2).mean((1, 2, 3)) > LOST_MSE
        labels[lost] = np.where(labels[lost] == 0, NO_SHAPE, IGNORED)
        instances[lost] = 0
    return JudgeImages(photograph(rng, images), labels, instances, classes, colors)


def _place(rng: np.random.Generator, count: int, config: JudgeDataConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every object: its image (n,), its layer (n,), and its square float32 (n, 3) of cx, cy, size in px."""
    largest = (0.0, 17.0, 14.5, 13.0, 11.5, 10.0)
    owner, layer, squares = [], [], []
    numbers = rng.choice(len(config.num_objects), count, p=np.array(config.num_objects) / sum(config.num_objects))
    for image, number in enumerate(numbers):
        gap = rng.uniform(-4.0, 1.5) if rng.random() < config.close_share else 1.2
        placed = np.empty((0, 3))
        for _ in range(number):
            small = rng.random() < config.small_share
            size = rng.uniform(2.5, 7.0) if small else rng.uniform(7.0, largest[number])
            margin = size / 2 - 0.3  # some are cut by the frame, a little
            centres = rng.uniform(margin, FRAME_PX - margin, (16, 2))
            apart = np.abs(centres[:, None] - placed[None, :, :2]).max(-1) - (size + placed[:, 2]) / 2
            free = (apart >= gap).all(1)
            if free.any():
                # Close scenes take the nearest of the places, so that things do touch.
                choice = free.argmax() if gap == 1.2 or not len(placed) else np.where(free, -apart.min(1), -99).argmax()
                placed = np.vstack([placed, [*centres[choice], size]])
        owner += [image] * len(placed)
        layer += range(len(placed))
        squares.append(placed)
    return np.array(owner, int), np.array(layer, int), np.concatenate(squares).astype(np.float32)


def _draw_objects(rng: np.random.Generator, squares: np.ndarray, plain_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage float32 (n, 32, 32) of random objects in their squares, and their classes uint8 (n,)."""
    count = len(squares)
    names = list(KINDS)
    shares = np.array([KINDS[name][0] for name in names]) * (1 - plain_share)
    shares[names.index("plain")] = plain_share
    kinds = np.array(names)[rng.choice(len(names), count, p=shares)]
    masks, classes = draw_masks(rng, rng.integers(0, len(SHAPE_NAMES), count), kinds)
    fine = (np.arange(FRAME_PX * 4, dtype=np.float32) + 0.5) / 4
    half = squares[:, 2:] / 2
    columns, rows = (((fine[None] - squares[:, i : i + 1]) / half + EXTENT) * (GRID / (2 * EXTENT)) for i in (0, 1))
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    columns, rows = (np.clip(np.floor(v) + 1, 0, GRID + 1).astype(np.int32) for v in (columns, rows))
    inside = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    coverage = inside.reshape(count, FRAME_PX, 4, FRAME_PX, 4).mean((2, 4), dtype=np.float32)
    # What the frame cuts off is damage too.
    whole = masks.sum((1, 2)) * (half[:, 0] * 2 * EXTENT / GRID) ** 2
    cut = coverage.sum((1, 2)) < 0.85 * whole
    return coverage, np.where(cut, UNDECIDED, classes)


def _paint(
    rng: np.random.Generator, squares: np.ndarray, coverage: np.ndarray, config: JudgeDataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Colours float32 (n, 32, 32, 3) of objects that cover `coverage`, and their labels uint8 (n,)."""
    count = len(squares)

    def jittered(base: np.ndarray) -> np.ndarray:
        shade = rng.uniform(0.9, 1.06, (len(base), 1))
        return np.clip(base * shade + rng.normal(0, 9, base.shape), 0, 255).astype(np.float32)

    main = rng.integers(0, len(COLORS), count)
    other = (main + rng.integers(1, len(COLORS), count)) % len(COLORS)
    first, second = jittered(_PALETTE[main]), jittered(_PALETTE[other])
    draw = rng.random(count)
    two_tone = draw < config.two_tone_share
    odd = ~two_tone & (draw < config.two_tone_share + config.odd_color_share)
    weight = np.where(odd, rng.uniform(0.05, 0.6, count), 0.0)[:, None].astype(np.float32)
    grey = rng.uniform(90, 190, (count, 1)).astype(np.float32)
    partner = np.where(rng.random((count, 1)) < 0.25, grey, second)
    first = first * (1 - weight) + partner * weight
    # Two tones meet along a line somewhere in the object, sharply or softly.
    cells = np.arange(FRAME_PX, dtype=np.float32) + 0.5
    angle, softness = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.5, 8.0, count)
    through = squares[:, :2] + rng.uniform(-0.4, 0.4, (count, 2)) * squares[:, 2:]
    across = (cells[None] - through[:, :1]) * np.cos(angle)[:, None]
    down = (cells[None] - through[:, 1:]) * np.sin(angle)[:, None]
    share = np.clip((across[:, None, :] + down[:, :, None]) / softness[:, None, None] + 0.5, 0, 1)
    share = (share * two_tone[:, None, None]).astype(np.float32)
    paint = first[:, None, None] * (1 - share[..., None]) + second[:, None, None] * share[..., None]
    seen = (share * coverage).sum((1, 2)) / np.maximum(coverage.sum((1, 2)), 1e-6)
    labels = np.where(odd, color_labels(first), main)
    toned = np.select([seen < 0.06, seen > 0.94, (seen > 0.22) & (seen < 0.78)], [main, other, MIXED], UNDECIDED_COLOR)
    return paint, np.where(two_tone, toned, labels).astype(np.uint8)


def color_labels(rgb: np.ndarray) -> np.ndarray:
    """uint8 (n,) of sRGB (n, 3): the palette's colour that is clearly nearest in CIELAB, `MIXED` where clearly none is,
    `UNDECIDED_COLOR` between."""
    distance = np.linalg.norm(srgb_to_lab(rgb.astype(float))[:, None] - srgb_to_lab(_PALETTE.astype(float)), axis=-1)
    order = np.sort(distance, 1)
    margin = order[:, 1] - order[:, 0]
    clear = (order[:, 0] < 24) & (margin > 22)
    none = (order[:, 0] > 34) | (margin < 8)
    return np.select([clear, none], [distance.argmin(1), MIXED], UNDECIDED_COLOR).astype(np.uint8)


def _judge_touching(instances: np.ndarray, classes: np.ndarray, colors: np.ndarray) -> None:
    """Mark, in `classes`, objects that touch another one: of the same colour malformed, of different colours
    undecided (some call them two shapes); objects that were covered to a good part malformed. In place."""
    touching = np.zeros((*classes.shape, MAX_OBJECTS), bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = instances[:, : FRAME_PX - dy, max(0, -dx) : FRAME_PX - max(0, dx)]
        there = instances[:, dy:, max(0, dx) : FRAME_PX - max(0, -dx)]
        image, row, column = np.nonzero((here > 0) & (there > 0) & (here != there))
        one, two = here[image, row, column] - 1, there[image, row, column] - 1
        touching[image, one, two] = touching[image, two, one] = True
    image, one, two = np.nonzero(touching)
    alike = colors[image, one] == colors[image, two]
    classes[image[~alike], one[~alike]] = UNDECIDED
    classes[image[alike], one[alike]] = MALFORMED


def _label(instances: np.ndarray, classes: np.ndarray, ghosts: np.ndarray) -> np.ndarray:
    """Pixel labels uint8 (N, 32, 32). Ghosts and specks are no shape; nobody says where they end, so neither do we."""
    of_class = np.array([*range(1, MALFORMED + 2), *[IGNORED] * (255 - MALFORMED)], np.uint8)
    table = np.zeros((len(instances), MAX_OBJECTS + 1), np.uint8)
    table[:, 1:] = np.where(ghosts, NO_SHAPE, of_class[classes])
    return np.take_along_axis(table, instances.reshape(len(instances), -1), 1).reshape(instances.shape)


def _textures(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Blotches, stripes and noise over the whole frame, uint8 as `images`."""
    count = len(images)
    y, x = np.mgrid[:FRAME_PX, :FRAME_PX].astype(np.float32)
    field = np.zeros((count, FRAME_PX, FRAME_PX, 3), np.float32)
    for _ in range(3):
        frequency = rng.uniform(0.05, 1.4, (2, count, 1, 1, 3)).astype(np.float32)
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 3)).astype(np.float32)
        field += np.sin(x[None, ..., None] * frequency[0] + y[None, ..., None] * frequency[1] + phase)
    field = field * rng.uniform(5, 40, (count, 1, 1, 1)) + rng.normal(0, 1, field.shape) * rng.uniform(
        2, 40, (count, 1, 1, 1)
    )
    return np.clip(np.rint(images + field), 0, 255).astype(np.uint8)


def photograph(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Contrast, brightness and tint, blur and noise, each for some of the images: uint8 (B, H, W, 3) in and out."""
    count = len(images)

    def some(share: float, low: float, high: float, neutral: float, channels: int = 1) -> np.ndarray:
        values = rng.uniform(low, high, (count, 1, 1, channels))
        return np.where(rng.random((count, 1, 1, 1)) < share, values, neutral).astype(np.float32)

    pixels = (images.astype(np.float32) - 128) * some(0.5, 0.8, 1.1, 1.0) + 128 + some(0.5, -14, 14, 0.0)
    pixels = pixels * some(0.3, 0.95, 1.05, 1.0, channels=3)
    for axis in (1, 2):
        # A blur of three taps, repeated once: close to a Gaussian of sigma sqrt(4 w).
        weight = some(0.4, 0.0, 0.11, 0.0)
        for _ in range(2):
            padded = np.pad(pixels, [(0, 0), *[(1, 1) if a == axis else (0, 0) for a in (1, 2)], (0, 0)], mode="edge")
            inner, outer = (slice(None, -2), slice(2, None))
            before = padded[:, inner] if axis == 1 else padded[:, :, inner]
            after = padded[:, outer] if axis == 1 else padded[:, :, outer]
            pixels = pixels * (1 - 2 * weight) + (before + after) * weight
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * some(0.5, 0.0, 7.0, 0.0)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
