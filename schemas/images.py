"""Images as bytes: PNG in blocks, JPEG in shards. Decoding refuses what is broken or absurdly large."""

import hashlib
import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from schemas.errors import CorruptDataError

MAX_IMAGE_PIXELS = 64_000_000
"""Larger images are refused before a pixel is decoded (a 100,000 x 100,000 header costs nothing to write)."""

FORMATS = ("PNG", "JPEG", "WEBP")
"""What shards hold. Pillow's other decoders are kept away from strangers' bytes: one of them starts Ghostscript."""


def encode_png(image: np.ndarray) -> bytes:
    """image: (H, W, 3) uint8, or (H, W) bool, which becomes a 1-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """image: (H, W, 3) uint8. No chroma subsampling: coloured edges are what the reflections are about."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def open_image(data: bytes, what: str = "image") -> Image.Image:
    """A fully decoded PIL image. Raises CorruptDataError, naming `what`, when the bytes do not decode or are too
    large."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise CorruptDataError(
                f"{what}: {image.width}x{image.height} pixels; at most {MAX_IMAGE_PIXELS:,} are accepted"
            )
        image.load()
    except CorruptDataError:
        raise
    except UnidentifiedImageError as error:  # whose own words name a place in memory, and blocks hold this message
        raise CorruptDataError(f"{what}: does not decode as an image (none of {', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise many types on broken bytes
        raise CorruptDataError(f"{what}: does not decode as an image ({type(error).__name__}: {error})") from error
    return image


def decode_image(data: bytes, what: str = "image") -> np.ndarray:
    """(H, W, 3) uint8, RGB. Raises CorruptDataError."""
    return np.array(open_image(data, what).convert("RGB"))


def decode_mask(data: bytes, what: str = "mask") -> np.ndarray:
    """(H, W) bool. Raises CorruptDataError."""
    return np.asarray(open_image(data, what).convert("1"))


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()
