"""Images as bytes: PNG in blocks, JPEG in shards, whatever strangers' datasets hold. One decoder for all readers.

An image is 8-bit RGB once it is read: deeper grey is scaled, what is transparent is laid on white (`BACKGROUND`), a
picture that was taken sideways is turned as its Exif says, of an animation the first frame counts. Decoding refuses
what is broken, absurdly large or of another format, and says the same of the same bytes each time.
"""

import hashlib
import io
import re
import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from schemas.errors import CorruptDataError

MAX_IMAGE_PIXELS = 64_000_000
"""Larger images are refused before a pixel is decoded (a 100,000 x 100,000 header costs nothing to write)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
"""What is read. Pillow's other decoders are kept away from strangers' bytes: one of them starts Ghostscript."""

BACKGROUND = (255, 255, 255)
"""White, as web pages show what is transparent: the colours below it were never meant to be seen."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def encode_png(image: np.ndarray, texts: Mapping[str, str] | None = None) -> bytes:
    """image: (H, W, 3) uint8, or (H, W) bool, which becomes a 1-bit PNG. texts: what the file says of itself, by
    keyword."""
    buffer, notes = io.BytesIO(), PngInfo()
    for keyword, text in (texts or {}).items():
        notes.add_text(keyword, text)
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=notes)
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """image: (H, W, 3) uint8. No chroma subsampling: coloured edges are what the reflections are about."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes, what: str = "image") -> np.ndarray:
    """(H, W, 3) uint8, RGB, upright, transparent parts on `BACKGROUND`. Raises CorruptDataError, naming `what`, when
    the bytes do not decode or are too large."""
    return np.array(_opened(data, what, "RGB"))


def decode_rgba(data: bytes, what: str = "image") -> np.ndarray:
    """(H, W, 4) uint8, upright, its transparency kept. Raises CorruptDataError."""
    return np.array(_opened(data, what, "RGBA"))


def decode_mask(data: bytes, what: str = "mask") -> np.ndarray:
    """(H, W) bool. Raises CorruptDataError."""
    return np.asarray(_opened(data, what, "1"))


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def _opened(data: bytes, what: str, mode: str) -> Image.Image:
    """A decoded image of the mode "RGB", "RGBA" or "1"."""
    try:
        return _decoded(data, mode)
    except Exception as error:  # Pillow's decoders raise many types on broken bytes
        problem = _why(data, error)
        if isinstance(error, ValueError) and data.startswith(_PNG):  # one of its notes unfolds to megabytes
            try:
                return _decoded(_without_notes(data), mode)
            except Exception as again:
                problem = _why(data, again)
        raise CorruptDataError(f"{what}: {problem}") from error


def _decoded(data: bytes, mode: str) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise CorruptDataError(f"{image.width}x{image.height} pixels; at most {MAX_IMAGE_PIXELS:,} are accepted")
    image.load()
    image = _upright(image)
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if mode != "RGB" or not image.has_transparency_data:
        return image.convert(mode)
    behind = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(behind, image.convert("RGBA")).convert(mode)


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as its Exif says; Exif that does not read says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are whole all the same
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, with alpha where one of its values stands for transparent."""
    deep = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    return grey


def _without_notes(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which say nothing of its pixels."""
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] not in _PNG_NOTES:
            kept.append(data[at : at + 12 + size])
        at += 12 + size
    return b"".join(kept)


def _why(data: bytes, error: Exception) -> str:
    """What is wrong with bytes that do not decode: it is kept in blocks, so it names no place in memory."""
    match error:
        case CorruptDataError():
            return str(error)
        case Image.DecompressionBombError():
            return f"its header says more pixels than the {MAX_IMAGE_PIXELS:,} that are accepted"
        case UnidentifiedImageError() if not data:
            return "does not decode as an image: it has no bytes"
        case UnidentifiedImageError():
            found = _format_of(data)
            if found in FORMATS:
                return f"does not decode as an image: the header of a {found} that is cut short or says no pixels"
            return f"does not decode as an image: {found or 'its format'} is not read, {', '.join(FORMATS)} are"
        case _:
            return f"does not decode as an image ({type(error).__name__}: {_ADDRESS.sub('', str(error))})"


def _format_of(data: bytes) -> str:
    """Pillow's name of a format, by the first bytes alone; "" for none that it knows."""
    Image.init()
    accepts = ((name, Image.OPEN[name][1]) for name in (*FORMATS, *Image.ID))
    return next((name for name, accept in accepts if accept and accept(data[:16].ljust(16, b"\0")) is True), "")
