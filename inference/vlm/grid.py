"""Several images in one, side by side, as annotators see pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def image_grid(images: Sequence[np.ndarray], image_px: int = 0) -> tuple[np.ndarray]:
    """uint8 (H, W, 3) images, from left to right in one; each first made to fit `image_px` (0: not), and those that are
    higher than the lowest as low as that."""
    fitted = [fit(image, image_px) for image in images]
    height = min(len(image) for image in fitted)
    return (np.concatenate([_of_height(image, height) for image in fitted], axis=1),)


def fit(image: np.ndarray, longest_px: int) -> np.ndarray:
    """The image, smaller where its longer side exceeds `longest_px` (0: never)."""
    longest = max(image.shape[:2])
    if not longest_px or longest <= longest_px:
        return image
    height, width = (max(1, round(side * longest_px / longest)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _of_height(image: np.ndarray, height: int) -> np.ndarray:
    """At the same aspect; itself where it has that height."""
    if len(image) == height:
        return image
    width = max(1, round(image.shape[1] * height / len(image)))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
