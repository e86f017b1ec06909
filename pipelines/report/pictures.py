"""Images and masks in the form a page needs: small data URIs, and outlines as SVG paths instead of more images."""

import base64
import io
import itertools
import math

import numpy as np
from PIL import Image

from schemas.errors import CorruptDataError
from schemas.images import decode_image, decode_mask

TINY_PX = 64
"""Images up to this size stay PNG, pixel by pixel; larger ones become JPEG."""
_JPEG_QUALITY = 82
_OUTLINE_GRID_PX = 96


def data_uri(image: bytes, max_px: int) -> str:
    """An image as a data URI, scaled down to at most max_px a side. CorruptDataError when it does not decode."""
    picture = Image.fromarray(decode_image(image))
    if max(picture.size) > max_px:
        picture.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if max(picture.size) <= TINY_PX:
        picture.save(buffer, format="PNG")
        kind = "png"
    else:
        picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def mask_outline(mask_png: bytes) -> tuple[str, tuple[int, int]] | None:
    """SVG path around a mask, and (width, height) of the grid its coordinates are on. None for a mask that is broken or
    empty: the box is still drawn."""
    try:
        mask = decode_mask(mask_png)
    except CorruptDataError:
        return None
    longer = max(mask.shape)
    if longer > _OUTLINE_GRID_PX:
        size = [max(1, round(side * _OUTLINE_GRID_PX / longer)) for side in mask.shape]
        shrunk = Image.fromarray(mask).convert("L").resize((size[1], size[0]), Image.Resampling.BOX)
        mask = np.asarray(shrunk) >= 128
    path = outline_path(mask)
    return (path, (mask.shape[1], mask.shape[0])) if path else None


def outline_path(mask: np.ndarray) -> str:
    """Closed rectilinear loops along the pixel edges of a bool mask (H, W), to be filled by the even-odd rule."""
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    padded = np.pad(mask, 1)
    # One directed edge for each side of a filled pixel that faces an empty one, clockwise around the pixel.
    for dy, dx, start, end in (
        (-1, 0, (0, 0), (1, 0)),
        (0, 1, (1, 0), (1, 1)),
        (1, 0, (1, 1), (0, 1)),
        (0, -1, (0, 1), (0, 0)),
    ):
        beside = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(mask & ~beside).tolist():
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    parts: list[str] = []
    while following:
        first = next(iter(following))
        loop, at = [first], first
        while True:
            ends = following[at]
            at = ends.pop()
            if not ends:
                del following[loop[-1]]
            if at == first:
                break
            loop.append(at)
        parts.append(_path_of(loop))
    return "".join(parts)


def finite(value: float, digits: int = 3) -> float | None:
    """A rounded number, None for one that JSON cannot hold."""
    return round(float(value), digits) if math.isfinite(value) else None


def _path_of(loop: list[tuple[int, int]]) -> str:
    """Relative moves between the corners of a loop."""
    count = len(loop)
    corners = [
        loop[i] for i in range(count) if (loop[i][0] == loop[i - 1][0]) != (loop[(i + 1) % count][0] == loop[i][0])
    ]
    moves = [f"M{corners[0][0]} {corners[0][1]}"]
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        moves.append(f"h{x1 - x0}" if y0 == y1 else f"v{y1 - y0}")
    return "".join(moves) + "z"
