"""How far an image does what a visual prompt says: palette distance, stroke width, horizon row, depth order, layout
overlap, measured on its pixels and on what the benchmark's judge found in it. No VLM is asked.

Objects are everything that the judge's detector found, malformed shapes too: a palette or a layout is about colours and
places. Where an image has nothing to measure (no object, no horizon), it counts as far off as it could be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.dual_process.micro_commonsense import background_of
from inference.grounding.pixel_color import erode
from microworld.scenes.world import COLORS, FRAME_PX, Rgb
from schemas.images import decode_mask
from schemas.records import DetectedObject

FOREGROUND_DISTANCE = 30.0  # RGB, from the row's background: fainter is noise of the VAE
SPECK_PX = 3.0  # of area: less is no drawing
EDGE_SIGMA_PX = 0.7  # of the gradient: at less, a staircase of pixels counts as longer than the edge that it stands for
_HUES = np.array(list(COLORS.values()), float)


def palette_distance(image: np.ndarray, objects: Sequence[DetectedObject], colors: Sequence[Rgb]) -> float:
    """Mean of two means: from the palette's colours to the nearest object's, and from the objects' to the nearest of
    the palette. Euclidean in RGB with channels in [0, 255]; an object's colour is the median of its inner pixels.

    Without objects, what there is to see is the image's median colour.
    """
    shown = np.array([_color_of(image, found) for found in objects] or [np.median(image, axis=(0, 1))], float)
    apart = np.linalg.norm(np.array(colors, float)[:, None] - shown[None], axis=-1)
    return float(apart.min(1).mean() + apart.min(0).mean()) / 2


def _color_of(image: np.ndarray, found: DetectedObject) -> np.ndarray:
    mask = mask_of(found)
    core = erode(mask)
    return np.median(image[core if core.any() else mask], axis=0)


def mask_of(found: DetectedObject) -> np.ndarray:
    """bool (H, W)."""
    assert found.mask_png is not None, "the judge's objects have masks"
    return decode_mask(found.mask_png)


def stroke_px(image: np.ndarray) -> float:
    """Thickness of what is drawn on the background, in px of the 32-px frame; 0 where nothing is.

    An outline's area by the mean length of its outer and its inner edge, both of the pixels' coverage, so that a part
    of a pixel counts: on rendered circles, squares, hearts and diamonds up to .4 px too much, in sharp corners more. A
    filled shape has one edge and counts as thick as it is (a disc as its radius). Several drawings: all areas by all
    edges.
    """
    from scipy import ndimage

    pixels = image.astype(float)
    offset = pixels - np.median(pixels, axis=1, keepdims=True)  # backgrounds are of one tone along a row
    labels: np.ndarray = ndimage.label(np.linalg.norm(offset, axis=-1) > FOREGROUND_DISTANCE, np.ones((3, 3)))[0]  # pyright: ignore
    area = edge = 0.0
    for number in range(1, int(labels.max()) + 1):
        near = ndimage.binary_dilation(labels == number, np.ones((3, 3)))
        covered = _coverage(pixels, pixels - offset, near)
        if covered.sum() < SPECK_PX:
            continue
        hole = ndimage.binary_fill_holes(labels == number) & (labels != number)
        solid = np.where(hole, 1.0, covered)
        area += covered.sum()
        edge += (_edge_length(solid) + _edge_length(hole * (1.0 - covered))) / 2
    return float(area / edge) * FRAME_PX / len(image) if edge else 0.0


def _coverage(pixels: np.ndarray, ground: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Share of each pixel of `near` that is drawn, float (H, W): its place on the way from the background to that
    colour of the world towards which the pixels point."""
    away = (pixels - ground)[near]
    ways = _HUES[:, None] - np.broadcast_to(ground, pixels.shape)[near][None]
    lengths = np.linalg.norm(ways, axis=-1)
    best = int(((away[None] * ways).sum(-1) / lengths).sum(1).argmax())
    covered = np.zeros(near.shape)
    covered[near] = ((away * ways[best]).sum(-1) / lengths[best] ** 2).clip(0, 1)
    return covered


def _edge_length(share: np.ndarray) -> float:
    """Length of the edge of what is covered, px: the total variation of the coverage (co-area formula)."""
    from scipy import ndimage

    return float(ndimage.gaussian_gradient_magnitude(np.pad(share.astype(float), 4), EDGE_SIGMA_PX).sum())


def horizon_distance_px(image: np.ndarray, objects: Sequence[DetectedObject], y: float) -> float:
    """From the horizon to row `y` (a share of the height), in px of the 32-px frame."""
    background = background_of(image, objects)
    if background.kind != "horizon":
        return max(y, 1 - y) * FRAME_PX
    return abs(background.horizon_px - y * FRAME_PX)


def lies_before(objects: Sequence[DetectedObject], a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether an object is at point a and none is at b; (x, y) as shares of the sides.

    An object is nearer than the background. What the generator draws does not overlap, and two objects apart from each
    other have no order (`microworld.scenes.overlay_questions`).
    """

    def is_object(point: tuple[float, float]) -> bool:
        masks = [mask_of(found) for found in objects]
        return any(mask[int(point[1] * mask.shape[0]), int(point[0] * mask.shape[1])] for mask in masks)

    return is_object(a) and not is_object(b)


def layout_overlap(objects: Sequence[DetectedObject], sketch: np.ndarray) -> float:
    """Intersection over union of a sketch's blocks, uint8 (H, W, 3) of the images' size, with the objects' boxes.

    Pixels agree where both have the same of the world's colours; what is of another colour, or besides, makes it less.
    """
    wanted = {name: (sketch == rgb).all(-1) for name, rgb in COLORS.items()}
    shown: dict[str, np.ndarray] = {}
    for found in objects:
        x0, y0, x1, y1 = (round(edge) for edge in found.box)
        shown.setdefault(found.color or "", np.zeros(sketch.shape[:2], bool))[y0:y1, x0:x1] = True
    nothing = np.zeros(sketch.shape[:2], bool)
    both = sum(int((wanted.get(name, nothing) & area).sum()) for name, area in shown.items())
    either = sum(
        int((wanted.get(name, nothing) | shown.get(name, nothing)).sum()) for name in dict.fromkeys([*wanted, *shown])
    )
    return both / either if either else 0.0
