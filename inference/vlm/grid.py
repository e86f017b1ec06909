"""Several images in one, side by side, as annotators see pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def image_grid(images: Sequence[np.ndarray], image_px: int = 0) -> tuple[np.ndarray]:
    """uint8 (H, W, 3) images of one height, from left to right in one; each first made to fit `image_px` (0: not)."""
    return (np.concatenate([fit(image, image_px) for image in images], axis=1),)


def fit(image: np.ndarray, longest_px: int) -> np.ndarray:
    """The image, smaller where its longer side exceeds `longest_px` (0: never)."""
    longest = max(image.shape[:2])
    if not longest_px or longest <= longest_px:
        return image
    height, width = (max(1, round(side * longest_px / longest)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
