"""Images on their way to a VLM: shrunk to what it may see, named by their pixels, encoded for a server."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import struct
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal

import numpy as np
from PIL import Image

from schemas.images import encode_jpeg

ImageFormat = Literal["png", "jpeg", "webp"]
_LOSSY_QUALITY = 90


def shrink(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8, of at most `max_pixels` pixels at the same aspect; as it is where it is small enough, or the
    limit is 0."""
    height, width = image.shape[:2]
    if not max_pixels or height * width <= max_pixels:
        return image
    factor = math.sqrt(max_pixels / (height * width))
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def digest(image: np.ndarray) -> str:
    """Hex SHA-256 of size and pixels: what an image is called where answers are kept."""
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()


def data_url(image: np.ndarray, image_format: ImageFormat) -> str:
    """For `image_url`. image: (H, W, 3) uint8."""
    encoded = {"png": _quick_png, "jpeg": _jpeg, "webp": _webp}[image_format](image)
    return f"data:image/{image_format};base64,{base64.b64encode(encoded).decode()}"


class EncodedOnce:
    """Data URLs of images that several requests may show: each is encoded when the first needs it, in that request's
    thread, and forgotten when the last is answered. As many are encoded at once as there are cores."""

    def __init__(self, names: Iterable[str], image_format: ImageFormat, max_pixels: int) -> None:
        """names: of images, by digest, as often as each will be asked for."""
        self._format: ImageFormat = image_format
        self._max_pixels = max_pixels
        self._uses, self._slots = Counter(names), defaultdict[str, _Slot](_Slot)
        self._lock, self._cores = threading.Lock(), threading.BoundedSemaphore(os.cpu_count() or 1)

    def url(self, name: str, image: np.ndarray) -> str:
        """image: (H, W, 3) uint8, of any size."""
        with self._lock:
            slot = self._slots[name]
        with slot.lock:
            if slot.url is None:
                with self._cores:
                    slot.url = data_url(shrink(image, self._max_pixels), self._format)
            return slot.url

    def done(self, name: str) -> None:
        """One of those who will ask has its answer."""
        with self._lock:
            self._uses[name] -= 1
            if not self._uses[name]:
                self._slots.pop(name, None)


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.url: str | None = None


def _jpeg(image: np.ndarray) -> bytes:
    return encode_jpeg(image, _LOSSY_QUALITY)


def _webp(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=_LOSSY_QUALITY, method=0)
    return buffer.getvalue()


def _quick_png(image: np.ndarray) -> bytes:
    """A PNG in a fifth of Pillow's time, some percent larger: each row less the one above, runs and Huffman codes alone
    (`benchmarks/runtime/image_encoding.py`)."""
    height, width, _ = image.shape
    flat = np.ascontiguousarray(image).reshape(height, -1)
    rows = np.full((height, 1 + flat.shape[1]), 2, np.uint8)  # 2: filter "up"
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    packed = packer.compress(rows.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
