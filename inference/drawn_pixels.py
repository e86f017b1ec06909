"""From what a decoder gives to the pixels of an image."""

import numpy as np

from schemas.errors import CorruptDataError


def pixels_of(images: np.ndarray) -> list[np.ndarray]:
    """float (n, H, W, 3) in [0, 1] -> n of uint8 (H, W, 3). CorruptDataError for values that are no numbers: rounded
    to pixels they would be a black image that looks like any other."""
    if not np.isfinite(images).all():
        raise CorruptDataError(
            "the model drew values that are no numbers (NaN or infinite): often a matter of float16, where bfloat16 or "
            "float32 is needed"
        )
    return list((images * 255).round().astype(np.uint8))
