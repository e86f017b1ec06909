"""Which colour word fits a masked object, by its pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Reference points of GenEval's ten colours in sRGB: the mid tone of what each word is used for, then its dark, pale and
# saturated tones where those lie nearer to another word's (dark red to brown, navy to purple, light blue to white).
GENEVAL_COLORS: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("red", (205, 35, 40)),
    ("red", (110, 15, 20)),
    ("orange", (245, 135, 25)),
    ("yellow", (245, 220, 50)),
    ("yellow", (205, 170, 40)),
    ("green", (50, 145, 60)),
    ("green", (20, 70, 35)),
    ("green", (150, 205, 130)),
    ("blue", (40, 90, 200)),
    ("blue", (20, 30, 90)),
    ("blue", (5, 5, 125)),
    ("blue", (15, 15, 240)),
    ("blue", (160, 208, 235)),
    ("purple", (125, 55, 155)),
    ("purple", (80, 0, 130)),
    ("purple", (140, 50, 225)),
    ("purple", (185, 150, 215)),
    ("pink", (245, 150, 180)),
    ("pink", (230, 70, 150)),
    ("brown", (120, 75, 40)),
    ("brown", (165, 115, 70)),
    ("brown", (70, 40, 22)),
    ("black", (25, 25, 25)),
    ("white", (245, 245, 245)),
    ("white", (195, 195, 200)),
)


@dataclass(frozen=True)
class PixelColorConfig:
    """Which colours there are."""

    palette: tuple[tuple[str, tuple[int, int, int]], ...] = GENEVAL_COLORS
    """Colour words and their sRGB references; a word may have several."""
    min_core_px: int = 12
    """A mask is eroded only where so many pixels stay."""

    def open(self) -> PixelColorNamer:
        """Nothing to load."""
        return PixelColorNamer(self)


class PixelColorNamer:
    """A `ColorNamer`: the median colour of the mask's inner pixels, and the nearest palette entry in CIELAB."""

    def __init__(self, config: PixelColorConfig) -> None:
        self.config = config
        self._names = tuple(name for name, _ in config.palette)
        self._references = srgb_to_lab(np.array([rgb for _, rgb in config.palette], float))

    def name_colors(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """images uint8 (H, W, 3), masks bool (n, H, W) for each; an empty mask gets "unknown". Class names are not
        used."""
        return [[self._name(image, mask) for mask in found] for image, found in zip(images, masks, strict=True)]

    def _name(self, image: np.ndarray, mask: np.ndarray) -> str:
        if not mask.any():
            return "unknown"
        # Pixels on the edge are mixed with the background.
        core = erode(mask)
        if core.sum() < self.config.min_core_px:
            core = mask
        lab = np.median(srgb_to_lab(image[core].astype(float)), axis=0)
        return self._names[int(np.argmin(((self._references - lab) ** 2).sum(-1)))]


def erode(mask: np.ndarray) -> np.ndarray:
    """bool (H, W): the pixels whose four neighbours are in the mask too; outside the image counts as outside."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def srgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in [0, 255] to CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = rgb / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness = 116 * f[..., 1] - 16
    return np.stack([lightness, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
