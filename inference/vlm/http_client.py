"""The HTTP client below `openai`'s: an answer has a deadline as a whole, and a size that it may not pass.

Time-outs of HTTP clients are from one byte to the next, so a server that drips, its headers or its body, would hold a
request for hours. A redirection to another server gets no header of the user's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import httpcore2
import httpx2
import openai

from inference.vlm.extras import MAX_BODY

_MAX_PACKED = 2**16  # compressed although nothing compressed is asked for; a thousand times this may come out of it
_DEADLINE, _ORIGIN = "answer_deadline", "asked_origin"  # among a request's extensions


class TooLargeError(ValueError):
    """An answer that no completion can have; what is left of it is not read."""


def http_client(
    timeout_s: float, secret_headers: Sequence[str] = (), max_body: int = MAX_BODY
) -> openai.DefaultHttpxClient:
    """timeout_s: of a request, from its first byte to its answer's last. secret_headers: names of those that hold
    secrets. max_body: bytes that an answer may have."""

    def started(request: httpx2.Request) -> None:
        # Redirected, it is still the same request.
        request.extensions.setdefault(_DEADLINE, time.monotonic() + timeout_s)
        origin = request.url.scheme, request.url.host, request.url.port
        if request.extensions.setdefault(_ORIGIN, origin) != origin:
            for name in secret_headers:
                request.headers.pop(name, None)

    client = openai.DefaultHttpxClient(
        timeout=timeout_s,
        headers={"Accept-Encoding": "identity"},
        event_hooks={"request": [started], "response": [partial(_watch, max_body=max_body), _give_up_on_quota]},
    )
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):  # which has no argument for it
            transport._pool._network_backend = _PromptBackend(transport._pool._network_backend)
    return client


class _PromptBackend(httpcore2.NetworkBackend):
    """Connections whose answers have a deadline as a whole."""

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _PromptStream(self._backend.connect_tcp(*args, **kwargs))

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _PromptStream(self._backend.connect_unix_socket(*args, **kwargs))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _PromptStream(httpcore2.NetworkStream):
    """All that is read after something was written comes within the time-out of one reading."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._began: float | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if timeout is None:
            return self._stream.read(max_bytes, timeout)
        left = self._began + timeout - now
        if left <= 0:
            raise httpcore2.ReadTimeout("the answer came too slowly")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._began = None
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return _PromptStream(self._stream.start_tls(*args, **kwargs))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


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


def _watch(response: httpx2.Response, max_body: int) -> None:
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("identity", "", "gzip", "deflate"):
        raise TooLargeError(f"an answer that is packed as {packed[:20]!r}, which nobody asked for")
    assert isinstance(response.stream, httpx2.SyncByteStream)
    most = max_body if packed in ("identity", "") else _MAX_PACKED
    response.stream = _Watched(response.stream, response.request.extensions[_DEADLINE], most)


def _give_up_on_quota(response: httpx2.Response) -> None:
    """An account without money is not asked four more times; a rate limit is."""
    if response.status_code == 429 and b"insufficient_quota" in response.read():
        response.headers["x-should-retry"] = "false"
