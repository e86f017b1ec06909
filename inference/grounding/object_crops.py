"""One object out of an image, as colour namers look at it."""

from __future__ import annotations

import numpy as np

GREY = 0x99  # GenEval pastes an object on this grey before its colour is named


def box_of(mask: np.ndarray) -> tuple[float, ...]:
    """Tight box (x0, y0, x1, y1) of bool (H, W), the far sides exclusive; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def paste_and_crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked object alone on grey (#999), cropped to its box: uint8 (h, w, 3) (GenEval)."""
    x0, y0, x1, y1 = (int(v) for v in box_of(mask))
    return np.where(mask[y0:y1, x0:x1, None], image[y0:y1, x0:x1], np.uint8(GREY))
