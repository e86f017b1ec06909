"""A cheap, strict reading of generated images, for training curves only (never inside a search or a benchmark).

Backgrounds are muted mid tones and every object colour lies outside that range, so foreground needs no model:
connected components, nearest palette colour, and the shape whose coverage fits best (soft IoU). The estimated scene
must then be exactly what the caption says. On rendered scenes it is never wrong (240 of 240).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from microworld.scenes.captions import TAGS, Caption, is_true_of, sample_caption
from microworld.scenes.world import COLORS, SHAPES, Background, Scene, SceneObject

MID_TONES = (96, 184)
FOREGROUND_DISTANCE = 30.0
MIN_AREA_PX = 10
MIN_IOU = 0.7
_PALETTE = np.array(list(COLORS.values()), np.float32)


def fixed_captions(per_tag: int, seed: int = 20) -> list[Caption]:
    rng = np.random.default_rng(seed)
    return [sample_caption(rng, {tag: 1.0}) for tag in TAGS for _ in range(per_tag)]


@cache
def _moments() -> dict[str, tuple[float, float, float]]:
    """Of each shape at size 1: area, and how far its centroid lies right of and below its centre."""
    grid = (np.arange(400) + 0.5) / 200 - 1
    found = {}
    for name, inside in SHAPES.items():
        rows, columns = np.nonzero(np.broadcast_to(inside(grid[None, :], grid[:, None]), (400, 400)))
        found[name] = (len(rows) / 400**2, float(grid[columns].mean()) / 2, float(grid[rows].mean()) / 2)
    return found


def _best_shape(alpha: np.ndarray, min_margin: float) -> tuple[str, float, float, float]:
    """Name, cx, cy, size of the shape that explains coverage `alpha` (H, W) best: by a soft IoU of MIN_IOU, and by
    `min_margin` better than any other; else "blob".

    Each shape is drawn once, with the area and the centroid that were found.
    """
    area = float(alpha.sum())
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]] + 0.5
    centroid_x, centroid_y = float((x * alpha).sum()) / area, float((y * alpha).sum()) / area
    grid_x, grid_y = (np.arange(4 * n) / 4 + 0.125 for n in alpha.shape[::-1])
    fits = []
    for name, (unit_area, right, down) in _moments().items():
        size = (area / unit_area) ** 0.5
        cx, cy = centroid_x - right * size, centroid_y - down * size
        u, v = (grid_x - cx)[None, :] / (size / 2), (grid_y - cy)[:, None] / (size / 2)
        fine = np.broadcast_to(SHAPES[name](u, v), (len(grid_y), len(grid_x)))
        template = fine.reshape(alpha.shape[0], 4, alpha.shape[1], 4).mean((1, 3))
        iou = float(np.minimum(alpha, template).sum() / np.maximum(alpha, template).sum())
        fits.append((iou, name, cx, cy, size))
    best, second = sorted(fits, reverse=True)[:2]
    is_clear = best[0] >= MIN_IOU and best[0] - second[0] >= min_margin
    return best[1] if is_clear else "blob", *best[2:]


def read_scene(image: np.ndarray, min_margin: float = 0.0) -> Scene:
    """The objects that can be made out in an image, uint8 (H, W, 3); a component that fits no shape is "blob", and so
    is one that fits no shape by `min_margin` (of soft IoU) better than another."""
    from scipy import ndimage

    pixels = image.astype(np.float32)
    distance = np.linalg.norm(pixels - np.clip(pixels, *MID_TONES), axis=-1)
    labels: np.ndarray = ndimage.label(distance > FOREGROUND_DISTANCE)[0]  # pyright: ignore
    ground = np.median(pixels[labels == 0], axis=0) if (labels == 0).any() else np.full(3, 140.0)
    objects = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        rows = slice(max(0, rows.start - 1), rows.stop + 1)
        columns = slice(max(0, columns.start - 1), columns.stop + 1)
        mask = labels[rows, columns] == index
        if mask.sum() < MIN_AREA_PX:
            continue
        local = pixels[rows, columns]
        votes = np.linalg.norm(local[mask][:, None] - _PALETTE, axis=-1).argmin(1)
        color = int(np.bincount(votes).argmax())
        # How much of each pixel is object: its place on the line from background to object colour.
        line = _PALETTE[color] - ground
        alpha = np.clip((local - ground) @ line / (line @ line), 0, 1)
        alpha = np.where(ndimage.binary_dilation(mask, np.ones((3, 3))), alpha, 0)
        name, cx, cy, size = _best_shape(alpha, min_margin)
        objects.append(SceneObject(name, list(COLORS)[color], columns.start + cx, rows.start + cy, size))
    return Scene(Background(), tuple(objects))


def score_images(captions: Sequence[Caption], images: Sequence[np.ndarray]) -> dict[str, float]:
    """Share of images that are exactly right, by tag, and the mean over tags as "mean"."""
    correct: dict[str, list[bool]] = {}
    for caption, image in zip(captions, images, strict=True):
        correct.setdefault(caption.tag, []).append(is_true_of(caption, read_scene(image)))
    scores = {tag: float(np.mean(values)) for tag, values in correct.items()}
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def save_sheet(images: Sequence[np.ndarray], path, columns: int = 20, zoom: int = 2) -> None:
    """A contact sheet of equally large uint8 images."""
    from PIL import Image

    height, width, _ = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + 2), columns * (width + 2), 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        sheet[y : y + height, x : x + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * zoom, sheet.shape[0] * zoom), 0).save(path)
