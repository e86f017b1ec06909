"""How large an image is, as command lines say it: 1152x896, width first."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from schemas.errors import InputError

_WRITTEN = re.compile(r"\s*([1-9]\d{0,4})\s*[xX×*]\s*([1-9]\d{0,4})\s*")


@dataclass(frozen=True)
class ImageSize:
    """Width and height in px."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str, field: str = "sizes") -> ImageSize:
        """Of "1152x896". InputError, which names the flag `field`."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise InputError(f"{text!r} is no size", field=field, expected="width x height in px, such as 1152x896")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def square(cls, side: int) -> ImageSize:
        """As wide as high."""
        return cls(side, side)

    @classmethod
    def of(cls, image: np.ndarray) -> ImageSize:
        """Of an array (H, W, 3)."""
        height, width = image.shape[:2]
        return cls(width, height)

    @property
    def pixels(self) -> int:
        """All of them."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
