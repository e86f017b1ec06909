"""Training images for the micro detector and segmenter: rendered scenes, made to look like generated ones.

A generator's mistakes are not in a renderer's output, so they are put there: blur and noise as a small VAE leaves
them, two colours in one object, and objects that are half one shape and half another. The last have no class: a
checker that accepts them would call malformed images correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from microworld.scenes.world import COLORS, SHAPES, Rendered, Scene, SceneObject, random_scene, render

SHAPE_NAMES = tuple(SHAPES)
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class AugmentationConfig:
    """Shares of the objects or images that are changed."""

    chimera_share: float = 0.08  # objects that are two shapes halved together: no class
    two_tone_share: float = 0.10  # objects of two colours: class kept
    blur_share: float = 0.6  # images blurred, sigma up to `max_blur_px`
    max_blur_px: float = 0.75
    noise_share: float = 0.6  # images with Gaussian noise, of up to `max_noise` grey levels
    max_noise: float = 8.0


@dataclass(frozen=True)
class GroundingBatch:
    """images uint8 (B, 32, 32, 3). Per image: `shapes`, one class name per object, None for a malformed one;
    `boxes` float32 (n, 4) xyxy in px; `masks` bool (n, 32, 32)."""

    images: np.ndarray
    shapes: list[tuple[str | None, ...]]
    boxes: list[np.ndarray]
    masks: list[np.ndarray]


def make_batch(rng: np.random.Generator, size: int, config: AugmentationConfig | None) -> GroundingBatch:
    """`size` fresh scenes; clean where `config` is None."""
    scenes = [random_scene(rng) for _ in range(size)]
    rendered = render(scenes)
    shapes: list[list[str | None]] = [[o.shape for o in scene.objects] for scene in scenes]
    images = rendered.images
    if config is not None:
        images = _mix_objects(rng, scenes, rendered, shapes, config)
        images = degrade(rng, images, config)
    return GroundingBatch(images, [tuple(s) for s in shapes], rendered.boxes, rendered.masks)


def _mix_objects(
    rng: np.random.Generator,
    scenes: Sequence[Scene],
    rendered: Rendered,
    shapes: list[list[str | None]],
    config: AugmentationConfig,
) -> np.ndarray:
    """Take one half of some objects from a second rendering where they have another shape or colour."""
    second, cuts = [], []
    for index, scene in enumerate(scenes):
        objects = []
        for k, item in enumerate(scene.objects):
            draw = rng.random()
            other = item
            if draw < config.chimera_share:
                other = replace(item, shape=_different(rng, SHAPE_NAMES, item.shape))
                shapes[index][k] = None
            elif draw < config.chimera_share + config.two_tone_share:
                other = replace(item, color=_different(rng, COLOR_NAMES, item.color))
            if other is not item:
                cuts.append((index, other, rng.uniform(0, 2 * np.pi)))
            objects.append(other)
        second.append(replace(scene, objects=tuple(objects)))
    images = rendered.images.copy()
    others = render(second).images
    for index, item, angle in cuts:
        taken = _half_plane(item, angle, images.shape[1])
        images[index][taken] = others[index][taken]
    return images


def _different(rng: np.random.Generator, names: Sequence[str], name: str) -> str:
    return str(rng.choice([n for n in names if n != name]))


def _half_plane(item: SceneObject, angle: float, size_px: int) -> np.ndarray:
    """bool (H, W): the object's square, on one side of a line through its centre."""
    y, x = np.mgrid[:size_px, :size_px] + 0.5
    dx, dy = x - item.cx, y - item.cy
    inside = np.maximum(np.abs(dx), np.abs(dy)) <= item.size / 2 + 0.7
    return inside & (dx * np.cos(angle) + dy * np.sin(angle) > 0)


def degrade(rng: np.random.Generator, images: np.ndarray, config: AugmentationConfig) -> np.ndarray:
    """Blur and noise: uint8 (B, H, W, 3) in and out."""
    count = len(images)
    pixels = images.astype(np.float32)
    sigma = rng.uniform(0.2, config.max_blur_px, count) * (rng.random(count) < config.blur_share)
    offsets = np.arange(-2, 3, dtype=np.float32)
    kernel = np.exp(-(offsets[None] ** 2) / (2 * np.maximum(sigma, 0.05)[:, None] ** 2)).astype(np.float32)
    kernel /= kernel.sum(1, keepdims=True)
    for axis in (1, 2):
        pad = [(0, 0)] * 4
        pad[axis] = (2, 2)
        padded = np.pad(pixels, pad, mode="edge")
        length = pixels.shape[axis]
        pixels = sum(
            kernel[:, i, None, None, None] * np.take(padded, range(i, i + length), axis) for i in range(len(offsets))
        )
    noise = rng.uniform(0, config.max_noise, count) * (rng.random(count) < config.noise_share)
    pixels += rng.standard_normal(pixels.shape, np.float32) * noise[:, None, None, None].astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
