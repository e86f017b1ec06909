"""An OpenAI-compatible server whose answers a test writes: real HTTP, so that the real client is what is tested."""

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMPARED = json.dumps({"Analysis": "The left image shows it.", "Result": "left", "Instructions": "Add a red star."})


class Reply:
    """What the server sends: a status and a body; `seconds` before it does, `drip_s` after each byte."""

    def __init__(
        self,
        body: str | bytes,
        status: int = 200,
        seconds: float = 0.0,
        kind: str = "application/json",
        drip_s: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.body, self.status, self.seconds, self.kind, self.drip_s = body, status, seconds, kind, drip_s
        self.headers = headers or {}


def says(text: str, finish: str = "stop") -> Reply:
    """A proper completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Reply(json.dumps(body))


def fails(status: int) -> Reply:
    return Reply(json.dumps({"error": {"message": "no", "type": "x"}}), status)


def text_of(payload: dict[str, Any]) -> str:
    """The words of the user's message."""
    content = payload["messages"][-1]["content"]
    return " ".join(part["text"] for part in content if part["type"] == "text")


class ChatServer:
    """`answer` gets each payload with its number, from 0; `payloads` are all that came."""

    def __init__(
        self,
        answer: Callable[[dict[str, Any], int], Reply],
        lives: bool = True,
        key: str | None = None,
        models: Sequence[str] = (),
    ) -> None:
        self.answer, self.lives, self.key = answer, lives, key
        self.models = [{"id": name, "object": "model", "created": 0, "owned_by": "x"} for name in models]
        self.headers: list[dict[str, str]] = []
        self.payloads: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self.base_url = ""

    def handle(self, payload: dict[str, Any]) -> Reply:
        with self._lock:
            number = len(self.payloads)
            self.payloads.append(payload)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.answer(payload, number)
            if reply.seconds:
                threading.Event().wait(reply.seconds)
            return reply
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def chat_server(
    answer: Callable[[dict[str, Any], int], Reply],
    lives: bool = True,
    key: str | None = None,
    models: Sequence[str] = (),
):
    """A running server; `lives`: whether it answers /v1/models, with `models`; `key`: without which it says 401, and
    which key it was sent."""
    chat = ChatServer(answer, lives, key, models)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def do_GET(self):
            listed = Reply(json.dumps({"object": "list", "data": chat.models}))
            self._send(self._unknown() or (listed if chat.lives else fails(503)))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            chat.headers.append(dict(self.headers))
            self._send(self._unknown() or chat.handle(json.loads(body)))

        def _unknown(self) -> Reply | None:
            given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            if chat.key in (None, given):
                return None
            said = {"message": f"Incorrect API key provided: {given}.", "code": "invalid_api_key", "param": None}
            return Reply(json.dumps({"error": said}), 401, headers={"X-Echo": given})

        def _send(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else reply.body.encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.drip_s:
                self.end_headers()
                with contextlib.suppress(OSError):
                    for place in range(len(data)):
                        self.wfile.write(data[place : place + 1])
                        threading.Event().wait(reply.drip_s)
                self.close_connection = True
                return
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked may have heard enough
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    chat.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
