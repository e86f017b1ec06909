"""How alike two images are, pixel by pixel: what drawings are compared by, where the same thing has the same colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.errors import InputError


@dataclass(frozen=True)
class PixelLikenessConfig:
    """On which grid images are compared."""

    grid: int = 64
    """Cells of each side; a cell is the mean of its pixels, so that images of any two sizes are compared."""

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise InputError(f"{self.grid} cells a side", field="likeness.pixels.grid", expected="at least 1")

    def open(self) -> PixelLikeness:
        """Nothing to load."""
        return PixelLikeness(self)


class PixelLikeness:
    """One less the mean absolute difference of two images' cells, in [0, 1]; 0 is black against white."""

    def __init__(self, config: PixelLikenessConfig) -> None:
        self.config = config

    def between(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """images uint8 (H, W, 3) -> float32 (n, n), one for each two of them."""
        if not images:
            return np.zeros((0, 0), np.float32)
        cells = np.stack([self._cells(image) for image in images])
        return np.stack([1 - np.abs(cells - one).mean(1) / 255 for one in cells])

    def _cells(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        grid = (self.config.grid, self.config.grid)
        return np.asarray(Image.fromarray(image).resize(grid, Image.Resampling.BOX), np.float32).reshape(-1)
