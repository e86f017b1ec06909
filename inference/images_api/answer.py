"""What a server of images says, made into bytes that are kept and an image that is used. Whatever is no image is a
ValueError (or what taking garbage apart raises), and is asked for again."""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from schemas.errors import AccessError, CorruptDataError
from schemas.image_size import ImageSize
from schemas.images import decode_image
from schemas.redaction import hide

MAX_BODY = 96 * 2**20
"""Bytes of an answer: a PNG of 4096 x 4096 noise, in base64, has 67 million."""
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MOST_SHOWN = 200


def image_bytes(answer: Any, client: Any, base_url: str, owner: str) -> bytes:
    """A file of the first image of an `openai` answer: from its base64, or from an address of the same server. client:
    the `openai` client. AccessError for an address elsewhere, which is not followed."""
    images = getattr(answer, "data", None)
    if not isinstance(images, list) or not images:
        problem = getattr(answer, "error", None)  # some say so with status 200
        raise ValueError("no image in its answer" + (f": {hide(str(problem))[:_MOST_SHOWN]}" if problem else ""))
    image = images[0]
    said = image.b64_json or image.url
    if not isinstance(said, str):
        raise ValueError("an answer without b64_json and url")
    if image.b64_json and not said.startswith("data:"):
        return _decoded(said)
    if said.startswith("data:"):
        head, comma, data = said.partition(",")
        if not (comma and head.endswith(";base64")):
            raise ValueError("a data: URL without base64")
        return _decoded(data)
    return _fetched(urljoin(base_url, said), client, base_url, owner)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"its base64 does not read: {error}") from None


def _fetched(url: str, client: Any, base_url: str, owner: str) -> bytes:
    import openai
    from openai import HttpxBinaryResponseContent

    if _origin(url) != _origin(base_url):
        raise AccessError(
            f"{base_url} answers with an image at another address: {hide(url)[:_MOST_SHOWN]}",
            field=f"--{owner}.base-url",
            expected="a server that gives the image itself (b64_json), or has it at its own address: others are not "
            "followed",
        )
    try:
        options = {"follow_redirects": False}
        return client.get(url, cast_to=HttpxBinaryResponseContent, options=options).content
    except openai.APIStatusError as error:
        raise ValueError(f"its image is not at the address that it names: status {error.status_code}") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def decoded(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of a PNG, JPEG or WebP. CorruptDataError for a file that is cut short, or none."""
    if data.startswith(_PNG) and _PNG_END not in data:
        raise CorruptDataError("its image: a PNG without its end")
    return decode_image(data, "its image")


def kept(data: bytes) -> dict[str, Any]:
    """For a journal: the file as it came."""
    return {"image": base64.b64encode(data).decode("ascii")}


def of_kept(value: dict[str, Any] | None, size: ImageSize) -> np.ndarray | None:
    """The image of what a journal has; None for what is damaged or missing: it is asked for again."""
    try:
        image = None if value is None else decoded(_decoded(value["image"]))
    except (CorruptDataError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return image if image is not None and ImageSize.of(image) == size else None
