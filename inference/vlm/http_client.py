"""The HTTP client below `openai`'s: an answer has a deadline as a whole, and a size that it may not pass.

Time-outs of HTTP clients are from one byte to the next, so a server that drips would hold a request for hours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import openai

MAX_BODY = 16 * 2**20
"""Bytes of an answer; a thousand tokens with their likeliest twenty are one."""
_MAX_PACKED = 2**16  # compressed although nothing compressed is asked for; a thousand times this may come out of it
_DEADLINE = "answer_deadline"  # among a request's extensions


class TooLargeError(ValueError):
    """An answer that no completion can have; what is left of it is not read."""


def http_client(timeout_s: float) -> openai.DefaultHttpxClient:
    """timeout_s: of a request, from its first byte to its answer's last."""

    def started(request: httpx2.Request) -> None:
        request.extensions.setdefault(_DEADLINE, time.monotonic() + timeout_s)  # redirected, it is still the same

    return openai.DefaultHttpxClient(
        timeout=timeout_s,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"request": [started], "response": [_watch, _give_up_on_quota]},
    )


class _Watched(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, deadline: float, most: int) -> None:
        self._stream, self._deadline, self._most = stream, deadline, most

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > self._most:
                raise TooLargeError(f"an answer of more than {self._most:,} bytes")
            if time.monotonic() > self._deadline:
                raise httpx2.ReadTimeout("the answer came too slowly")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _watch(response: httpx2.Response) -> None:
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("identity", "", "gzip", "deflate"):
        raise TooLargeError(f"an answer that is packed as {packed[:20]!r}, which nobody asked for")
    assert isinstance(response.stream, httpx2.SyncByteStream)
    most = MAX_BODY if packed in ("identity", "") else _MAX_PACKED
    response.stream = _Watched(response.stream, response.request.extensions[_DEADLINE], most)


def _give_up_on_quota(response: httpx2.Response) -> None:
    """An account without money is not asked four more times; a rate limit is."""
    if response.status_code == 429 and b"insufficient_quota" in response.read():
        response.headers["x-should-retry"] = "false"
