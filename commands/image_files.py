"""Image files named on a command line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from schemas.errors import InputError
from schemas.images import decode_image


def read_images(paths: Sequence[Path]) -> list[np.ndarray]:
    """uint8 (H, W, 3) each. InputError for a file that is not there, or none at all."""
    if not paths:
        raise InputError("no images", field="images", expected="one or more PNG or JPEG files")
    images = []
    for path in paths:
        if not path.is_file():
            raise InputError("no such file", file=str(path), expected="a PNG or JPEG image")
        images.append(decode_image(path.read_bytes(), str(path)))
    return images
