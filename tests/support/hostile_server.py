"""An endpoint that behaves as no honest one does: raw sockets, so that nothing stands between it and the client. Each
behaviour is a function that gets the connection, once a request of it was read."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

from tests.support.chat_server import says

KEY = "sk-hostile-0123456789abcdef"
LONG_S = 240.0  # a behaviour that never ends gives up by itself: longer than any test waits


def _send(connection: socket.socket, body: bytes, status: str = "200 OK", headers: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    connection.sendall(head.encode("latin-1") + body)


def body(body: bytes | str, status: str = "200 OK", headers: str = "") -> Callable[[socket.socket], None]:
    data = body if isinstance(body, bytes) else body.encode()
    return lambda connection: _send(connection, data, status, headers)


def completion(**changes: object) -> Callable[[socket.socket], None]:
    """A proper completion, but for what changes: fields of the whole, of its choice, of its message."""
    said = json.loads(says("fine").body)
    for name, value in changes.items():
        where = said["choices"][0]["message"] if name in ("content", "refusal", "role") else said["choices"][0]
        (said if name in ("usage", "choices", "id", "object", "model") else where)[name] = value
    return body(json.dumps(said))


def _drips(start: bytes, part: bytes, pause_s: float = 0.05) -> Callable[[socket.socket], None]:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:
            connection.sendall(part)
            time.sleep(pause_s)

    return drip


def _floods(start: bytes, part: bytes) -> Callable[[socket.socket], None]:
    def flood(connection: socket.socket) -> None:
        connection.sendall(start)
        for _ in range(2**28 // len(part)):  # a quarter of a GiB
            connection.sendall(part)

    return flood


def _hangs(connection: socket.socket) -> None:
    time.sleep(LONG_S)


def _resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_FINE = str(says("fine").body)
_TWICE = _FINE.replace('"content": "fine"', '"content": "one", "content": "two"')

BEHAVIOURS: dict[str, Callable[[socket.socket], None]] = {
    "lone surrogates": completion(content="a \ud800 star \udfff"),
    "control characters": completion(content="a\x00 \x1b[2J star\u202e\u2028"),
    "more tokens than atoms": completion(usage={"prompt_tokens": 10**30, "completion_tokens": 10**30}),
    "usage of null": completion(usage=None),
    "usage of words": completion(usage="many"),
    "usage of less than nothing": completion(usage={"prompt_tokens": -1, "completion_tokens": 2.5}),
    "a digit too many": body(_FINE.replace("11", "1" * 5000)),
    "usage of NaN": body(_FINE.replace("11", "NaN")),
    "logprobs of null": completion(logprobs={"content": [{"token": None, "logprob": None, "top_logprobs": None}]}),
    "logprobs of a million": completion(
        logprobs={"content": [{"token": "Yes", "logprob": 1e6, "top_logprobs": [{"token": "Yes", "logprob": 1e6}]}]}
    ),
    "a hundred thousand brackets": body("[" * 100_000),
    "brackets in a completion": body(_FINE.replace('"fine"', "[" * 100_000)),
    "no choices": completion(choices=[]),
    "choices of null": completion(choices=None),
    "choices as an object": completion(choices={"0": "fine"}),
    "choices of words": completion(choices=["fine"]),
    "a message of null": completion(message=None),
    "content in parts": completion(content=[{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}, 7]),
    "content of a number": completion(content=7),
    "a refusal beside no content": completion(content=None, refusal="I'm sorry, I can't help with that."),
    "a reason that is a list": completion(finish_reason=["stop"]),
    "filtered": completion(finish_reason="content_filter", content="half an ans"),
    "keys twice": body(_TWICE),
    "null": body("null"),
    "a word": body('"fine"'),
    "nothing": body(b""),
    "a page": body("<html>busy</html>"),
    "not UTF-8": body(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "a text of two million letters": completion(content="x" * 2_000_000),
    "a stream that nobody asked for": body("data: {}\n\ndata: [DONE]\n\n", headers="X-Kind: text/event-stream\r\n"),
    "half a body": lambda connection: connection.sendall(_OK + b"Content-Length: 500\r\n\r\n" + _FINE[:40].encode()),
    "a length of less than nothing": lambda connection: connection.sendall(_OK + b"Content-Length: -1\r\n\r\n{}"),
    "two lengths": lambda connection: connection.sendall(_OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
    "a swelling body": body(gzip.compress(b"[" * 200_000_000, 1), headers="Content-Encoding: gzip\r\n"),
    "a packing that nobody knows": body(_FINE, headers="Content-Encoding: rot13\r\n"),
    "an endless body": _floods(_OK + b"\r\n", b"x" * 65536),
    "endless pieces": _floods(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8000\r\n" + b"x" * 32768 + b"\r\n"),
    "endless headers": _floods(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 4096),
    "an endless header": _floods(b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 65536),
    "a dripping body": _drips(_OK + b"Content-Length: 100000\r\n\r\n", b" "),
    "dripping headers": _drips(b"HTTP/1.1 200 OK\r\nX-A: ", b"x"),
    "a dripping first line": _drips(b"HTTP/1.", b"1"),
    "a dripping error": _drips(b"HTTP/1.1 400 No\r\nContent-Length: 100000\r\n\r\n", b" "),
    "many early answers": _drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "no HTTP": lambda connection: connection.sendall(b"\x00\x01\x02 SSH-2.0\r\n\r\n"),
    "a status of 999": body(_FINE, "999 Huh"),
    "an error that steers": body('{"error": {"message": "\\u001b[2J\\u0007no\\u202e\\nerror: fine"}}', "400 No"),
    "an error that shows the key": body(json.dumps({"error": {"message": f"Bearer {KEY} is bad"}}), "400 No"),
    "a header that shows the key": body("{}", "400 No", f"X-Echo: Bearer {KEY}\r\n"),
    "round in circles": body("", "307 There", "Location: /v1/chat/completions\r\n"),
    "silence": _hangs,
    "a reset": _resets,
    "a hang-up": lambda connection: connection.close(),
}


NEVER_END = [
    name for name in BEHAVIOURS if any(word in name for word in ("dripping", "endless", "silence", "early", "half"))
]


def patience_s(name: str) -> float:
    """A time limit for a request: short where only that ends it; elsewhere longer than any machine is busy."""
    return 1.0 if name in NEVER_END else 60.0


class HostileServer:
    """One behaviour for every request; `num_asked` counts those that came."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.behave, self.num_asked, self.base_url = behave, 0, ""


@contextmanager
def hostile_server(behave: Callable[[socket.socket], None], lives: bool = True):
    """A running server. lives: it answers a GET as a server does that lives; else as all requests."""
    hostile = HostileServer(behave)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                while head := self._request():
                    if lives and head.startswith(b"GET"):
                        _send(self.request, b'{"object": "list", "data": []}')
                        continue
                    hostile.num_asked += 1
                    hostile.behave(self.request)

        def _request(self) -> bytes:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (part := self.request.recv(65536)):
                    return b""
                data += part
            head, _, rest = data.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            missing = int(lengths[0].partition(b":")[2]) - len(rest) if lengths else 0
            while missing > 0 and (part := self.request.recv(min(missing, 65536))):
                missing -= len(part)
            return head

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, block_on_close = True, True, False

        def handle_error(self, request, client_address):
            """Whoever was asking has heard enough."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hostile.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield hostile
    finally:
        server.shutdown()
        server.server_close()
