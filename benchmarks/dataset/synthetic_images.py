"""Pictures that cost an encoder what photographs cost, from a seed: there is no room for real ones here."""

import numpy as np
from PIL import Image


def photo_like(seed: int, size_px: int, tint: tuple[int, int, int] = (0, 0, 0), grain: int = 5) -> np.ndarray:
    """(size_px, size_px, 3) uint8: soft shapes at several scales, and grain of up to ±`grain` on every channel.

    At 1024 px and grain 5 a PNG takes about 1.7 MB and a JPEG of quality 95 about 0.4 MB, as those of FLUX do.
    """
    rng = np.random.default_rng(seed)
    picture = np.full((size_px, size_px, 3), 128.0) + np.array(tint)
    for cells, strength in ((4, 60), (16, 25), (64, 10)):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC), dtype=float)
        picture += (soft - 127.5) / 127.5 * strength
    picture += rng.integers(-grain, grain + 1, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def noise(seed: int, size_px: int, tint: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """(size_px, size_px, 3) uint8: every value random, which no encoder can make smaller."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (size_px, size_px, 3)) + np.array(tint)).clip(0, 255).astype(np.uint8)
