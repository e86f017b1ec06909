"""Visual prompts: what is drawn over a generated image before a VLM is asked whether the two agree.

Dual-process distillation, §4.3: a palette along the bottom, a red line as thick as lines should be, a red line where
the horizon should be, two red points whose depths are to be compared, and a sketch of the layout. An overlay is a
colour and an opacity for every pixel, at whatever size the VLM looks, so the gradient of the VLM's answer passes
through `overlay` to the image below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

Rgb = tuple[int, int, int]
T = TypeVar("T")

RED: Rgb = (255, 0, 0)
STRIP_SHARE = 1 / 6  # of the height, at the bottom: palette and line weight
LINE_SHARE = 1 / 32  # of the height: how thick the horizon's line is
POINT_SHARE = 1 / 16  # of the height: side of a point
SOLID, TRANSPARENT = 1.0, 0.5  # the published overlay modes
DRAWN_FROM_PX = 128
"""Images of so many pixels in height, and higher ones, get round points and drawn letters; in lower ones there is room
for letters of a few pixels."""
# 3 x 5 letters, a row a string.
_LETTERS = {"A": (".#.", "#.#", "###", "#.#", "#.#"), "B": ("##.", "#.#", "##.", "#.#", "##.")}


class VisualPrompt(Protocol):
    """Something that is drawn over an image, and the question that goes with it."""

    @property
    def question(self) -> str:
        """The question whose answer is "Yes" where the image does what the overlay says."""
        ...

    def layer(self, height: int, width: int) -> np.ndarray:
        """float32 (height, width, 4): colour in [0, 255] and opacity in [0, 1]."""
        ...


def overlay(image: T, layer: np.ndarray) -> T:
    """`layer` (H, W, 4) over an image (H, W, 3) in [0, 255], an array or a tensor; float, differentiable."""
    color, opacity = layer[..., :3], layer[..., 3:]
    if not isinstance(image, np.ndarray):
        import torch

        color, opacity = (torch.from_numpy(np.ascontiguousarray(a)).to(image) for a in (color, opacity))  # type: ignore
    return image * (1 - opacity) + color * opacity  # type: ignore[operator]


def overlay_image(image: np.ndarray, prompt: VisualPrompt) -> np.ndarray:
    """uint8 (H, W, 3) with the prompt drawn over it."""
    layer = prompt.layer(*image.shape[:2])
    return np.rint(overlay(image.astype(np.float32), layer)).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ColorPalette:
    """Swatches of equal width along the bottom, on a strip that hides what is below it."""

    colors: tuple[Rgb, ...]
    question: str = "Do the colors of the image match the palette at the bottom?"

    def layer(self, height: int, width: int) -> np.ndarray:
        layer = _empty(height, width)
        top = height - _strip_px(height)
        edges = np.linspace(0, width, len(self.colors) + 1).round().astype(int)
        for color, left, right in zip(self.colors, edges, edges[1:], strict=False):
            layer[top:, left:right] = (*color, SOLID)
        return layer


@dataclass(frozen=True)
class LineWeight:
    """A red line in the middle of a strip at the bottom; `weight` is its thickness as a share of the height."""

    weight: float
    question: str = "Is the red line at the bottom as thick as the lines of the image?"

    def layer(self, height: int, width: int) -> np.ndarray:
        layer = _empty(height, width)
        middle = height - _strip_px(height) / 2
        _draw_line(layer, middle, self.weight * height)
        inset = max(1, round(width / 8))
        layer[:, :inset, 3] = layer[:, width - inset :, 3] = 0.0
        return layer


@dataclass(frozen=True)
class HorizonPosition:
    """A red line across the image at `y`, a share of the height from the top."""

    y: float
    question: str = "Is the horizon at the red line?"

    def layer(self, height: int, width: int) -> np.ndarray:
        layer = _empty(height, width)
        _draw_line(layer, self.y * height, max(1.0, LINE_SHARE * height))
        return layer


@dataclass(frozen=True)
class RelativeDepth:
    """Two red points, (x, y) as shares of width and height, with the letters A and B beside them.

    Asked whether A is closer to the camera than B.
    """

    a: tuple[float, float]
    b: tuple[float, float]
    question: str = "Is point A closer than point B?"

    def layer(self, height: int, width: int) -> np.ndarray:
        if height >= DRAWN_FROM_PX:
            return _drawn_points(height, width, {"A": self.a, "B": self.b})
        layer = _empty(height, width)
        side = max(2, round(POINT_SHARE * height))
        for letter, (x, y) in (("A", self.a), ("B", self.b)):
            left, top = _inside(x * width - side / 2, width - side), _inside(y * height - side / 2, height - side)
            layer[top : top + side, left : left + side] = (*RED, SOLID)
            glyph = np.array([[mark == "#" for mark in row] for row in _LETTERS[letter]])
            glyph = glyph.repeat(max(1, side // 3), 0).repeat(max(1, side // 3), 1)
            rows, columns = glyph.shape
            beside = left + side + 1 if left + side + 1 + columns <= width else left - 1 - columns
            above = _inside(top + side / 2 - rows / 2, height - rows)
            layer[above : above + rows, beside : beside + columns][glyph] = (*RED, SOLID)
        return layer


@dataclass(frozen=True)
class VisualComposition:
    """A sketch of the layout, uint8 (H, W, 3): shown half transparent (or solid) over the whole image."""

    sketch: np.ndarray
    opacity: float = TRANSPARENT
    question: str = "Does the image match the layout of the overlay?"

    def layer(self, height: int, width: int) -> np.ndarray:
        from PIL import Image

        sketch = np.asarray(Image.fromarray(self.sketch).resize((width, height), Image.Resampling.BICUBIC), np.float32)
        return np.concatenate([sketch, np.full((height, width, 1), self.opacity, np.float32)], 2)


def draw_sketch(blocks: Sequence[tuple[Rgb, tuple[float, float, float, float]]], size_px: int, ground: Rgb):
    """A plain layout, uint8 (size, size, 3): blocks of one colour, (x0, y0, x1, y1) as shares, on a ground."""
    sketch = np.empty((size_px, size_px, 3), np.uint8)
    sketch[:] = ground
    for color, box in blocks:
        x0, y0, x1, y1 = (round(edge * size_px) for edge in box)
        sketch[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = color
    return sketch


def _empty(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 4), np.float32)


def _strip_px(height: int) -> int:
    return max(2, round(STRIP_SHARE * height))


def _drawn_points(height: int, width: int, points: dict[str, tuple[float, float]]) -> np.ndarray:
    """A layer (height, width, 4): red points and letters as large as the image is, rimmed in white, so that they are
    seen on whatever is below."""
    from PIL import Image, ImageDraw, ImageFont

    radius, rim = height / 36, max(1, round(height / 250))
    font: Any = ImageFont.load_default(size=height / 9)
    red, rimmed = Image.new("L", (width, height)), Image.new("L", (width, height))
    for letter, (x, y) in points.items():
        reach = radius + rim
        across, down = (min(max(share * n, reach), n - 1 - reach) for share, n in ((x, width), (y, height)))
        left, top, right, bottom = font.getbbox(letter, stroke_width=rim)
        beside = across + reach + rim
        if beside + right - left > width:
            beside = across - reach - rim - (right - left)
        at = (round(beside - left), _inside(down - (bottom - top) / 2, height - (bottom - top)) - top)
        for picture, more in ((rimmed, rim), (red, 0)):
            draw, r = ImageDraw.Draw(picture), radius + more
            draw.ellipse((across - r, down - r, across + r, down + r), fill=255)
            # The stroke grows to all sides, so that both letters stand at the same place.
            draw.text(at, letter, fill=255, font=font, stroke_width=more, stroke_fill=255)
    layer, inner = _empty(height, width), np.asarray(red, np.float32)[..., None] / 255
    layer[..., :3] = np.array(RED, np.float32) * inner + 255 * (1 - inner)
    layer[..., 3] = np.maximum(np.asarray(rimmed, np.float32) / 255, inner[..., 0])
    return layer


def _inside(value: float, highest: int) -> int:
    return min(max(round(value), 0), highest)


def _draw_line(layer: np.ndarray, middle_px: float, thickness_px: float) -> None:
    """A horizontal red line; rows that it covers in part are as opaque as they are covered."""
    rows = np.arange(layer.shape[0])
    top, bottom = middle_px - thickness_px / 2, middle_px + thickness_px / 2
    layer[..., :3] = RED
    layer[..., 3] = (np.minimum(rows + 1, bottom) - np.maximum(rows, top)).clip(0, 1)[:, None]
