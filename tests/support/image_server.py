"""A server of OpenAI's image routes, real HTTP, that draws with the micro FLUX and edits with its corrector, told the
instruction as its text. It counts what it draws, and can be as bad as servers are. Also for people:

    python -m tests.support.image_server --port 8100
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import io
import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from schemas.arrow import canonical_json
from schemas.image_size import ImageSize
from schemas.images import decode_image, sha256

MODEL = "micro-flux"
OPENAI_SIZES = ("1024x1024", "1024x1536", "1536x1024")
_UNKNOWN_TO_OPENAI = ("response_format", "seed", "num_inference_steps", "guidance_scale", "true_cfg_scale")


class Painter(Protocol):
    """What draws: prompt, seed, size, and the image that is edited or None -> (H, W, 3) uint8."""

    def __call__(self, prompt: str, seed: int, size: ImageSize, image: np.ndarray | None) -> np.ndarray: ...


def plain_painter(prompt: str, seed: int, size: ImageSize, image: np.ndarray | None) -> np.ndarray:
    """Noise of one's own for each request, in no time; an edit is the image with its colours turned round."""
    if image is not None:
        return 255 - image
    start = int.from_bytes(hashlib.sha256(f"{prompt} {seed}".encode()).digest()[:8], "big")
    return np.random.default_rng(start).integers(0, 256, (size.height, size.width, 3), np.uint8)


class MicroPainter:
    """The micro FLUX at 32 px, and its corrector with the instruction in place of prompt and reflection."""

    def __init__(self) -> None:
        from inference.flux.corrector import FluxCorrectorConfig
        from microworld.family import micro_flux

        self._flux = micro_flux(batch_size=1).open()
        self._corrector = FluxCorrectorConfig("micro/corrector").open(self._flux)
        self._lock = threading.Lock()

    def __call__(self, prompt: str, seed: int, size: ImageSize, image: np.ndarray | None) -> np.ndarray:
        assert size == ImageSize(32, 32), size
        with self._lock:
            if image is None:
                return self._flux.generate([prompt], [seed])[0]
            return self._corrector.correct([image], [prompt], [""], [seed])[0]


@dataclass
class Reply:
    """What is sent, after `seconds`; `cut`: the connection ends after so many bytes of the body."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    seconds: float = 0.0
    cut: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def error(message: str, status: int = 400, param: str | None = None, code: str | None = None) -> Reply:
    """In OpenAI's form."""
    said = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(json.dumps({"error": said}).encode(), status)


@dataclass
class Asked:
    """One request. number: of those of the same content, from 0."""

    route: str
    payload: dict[str, Any]
    image: np.ndarray | None
    digest: str
    number: int


Mode = Callable[["ImageServer", Asked], "Reply | None"]


class ImageServer:
    """`drawn`: (digest of the request, SHA-256 of the file) of every image, in order; also lines of `log`, which
    outlives the process. salt: another one draws other noise, as no server promises it to be the same."""

    def __init__(
        self,
        painter: Painter = plain_painter,
        mode: Mode | None = None,
        key: str | None = None,
        sizes: tuple[str, ...] = (),
        log: Path | None = None,
        salt: int = 0,
    ) -> None:
        self.painter, self.mode, self.key, self.sizes, self.log = painter, mode, key, sizes, log
        self.salt = salt
        self.asked: list[Asked] = []
        self.drawn: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.headers: list[dict[str, str]] = []
        self.most_at_once = self._now = 0
        self.base_url, self._lock = "", threading.Lock()

    def answer(self, route: str, payload: dict[str, Any], image: bytes | None) -> Reply:
        """To a request whose key was right."""
        said = {**payload, "route": route, "image": None if image is None else sha256(image)}
        digest = hashlib.sha256(canonical_json(said).encode()).hexdigest()
        with self._lock:
            before = sum(one.digest == digest for one in self.asked)
            asked = Asked(route, payload, None if image is None else decode_image(image), digest, before)
            self.asked.append(asked)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.mode(self, asked) if self.mode else None
            reply = reply or self._checked(asked) or self.draw(asked)
            threading.Event().wait(reply.seconds)
            return reply
        finally:
            with self._lock:
                self._now -= 1

    def _checked(self, asked: Asked) -> Reply | None:
        size, model = asked.payload.get("size"), asked.payload.get("model")
        if model != MODEL:
            return error(f"The model {model!r} does not exist.", 404, code="model_not_found")
        if self.sizes and size not in self.sizes:
            values = ", ".join(f"'{one}'" for one in self.sizes)
            return error(
                f"Invalid value: '{size}'. Supported values are: {values}.", param="size", code="invalid_value"
            )
        return None

    def draw(self, asked: Asked, size: ImageSize | None = None, file_type: str = "PNG") -> Reply:
        """A proper answer."""
        return Reply(self.answer_with(b64_json=base64.b64encode(self.file_of(asked, size, file_type)).decode()))

    def file_of(self, asked: Asked, size: ImageSize | None = None, file_type: str = "PNG") -> bytes:
        """Draw it, count it."""
        said = asked.payload
        size = size or ImageSize.parse(said["size"])
        seed = (int(said.get("seed", 0)) + self.salt) % 2**31
        file = io.BytesIO()
        Image.fromarray(self.painter(said["prompt"], seed, size, asked.image)).save(file, format=file_type)
        with self._lock:
            self.drawn.append((asked.digest, sha256(file.getvalue())))
            if self.log is not None:
                with open(self.log, "a") as lines:
                    lines.write(" ".join((asked.route, *self.drawn[-1])) + "\n")
        return file.getvalue()

    @staticmethod
    def answer_with(**image: str) -> bytes:
        """One image, in OpenAI's form."""
        return json.dumps({"created": 0, "data": [image]}).encode()


def first(times: int, reply: Callable[[ImageServer, Asked], Reply]) -> Mode:
    """The first so many times that a request comes."""
    return lambda server, asked: reply(server, asked) if asked.number < times else None


def as_openai(server: ImageServer, asked: Asked) -> Reply | None:
    """Like OpenAI's image models: they know little, and say so one by one."""
    if unknown := [name for name in _UNKNOWN_TO_OPENAI if name in asked.payload]:
        return error(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter")
    return None


def moderated(server: ImageServer, asked: Asked) -> Reply | None:
    """Prompts with the word "forbidden" are refused, in words that could be about much else."""
    if "forbidden" not in asked.payload["prompt"]:
        return None
    said = "Your request was rejected by our safety system: its size, seed or prompt is not allowed."
    return error(said, code="moderation_blocked")


def _with_url(url: Callable[[ImageServer, Asked], str]) -> Mode:
    return lambda server, asked: Reply(server.answer_with(url=url(server, asked)))


def _own_url(server: ImageServer, asked: Asked) -> str:
    server.files[asked.digest] = server.file_of(asked)
    return f"{server.base_url}/files/{asked.digest}"


def _data_url(server: ImageServer, asked: Asked) -> str:
    return "data:image/png;base64," + base64.b64encode(server.file_of(asked)).decode()


def _half_image(server: ImageServer, asked: Asked) -> Reply:
    data = server.file_of(asked)
    return Reply(server.answer_with(b64_json=base64.b64encode(data[: len(data) // 2]).decode()))


def _other_size(server: ImageServer, asked: Asked) -> Reply:
    size = ImageSize.parse(asked.payload["size"])
    return server.draw(asked, ImageSize(size.width // 2, size.height))


def _slowly(server: ImageServer, asked: Asked) -> Reply:
    return replace(server.draw(asked), seconds=1.0)


def _is_first_edit(server: ImageServer, asked: Asked) -> bool:
    return asked.route != "edits" or asked is next(one for one in server.asked if one.route == "edits")


NEVER = Reply(b"", seconds=1e6)
MODES: dict[str, Mode] = {
    "429 at first": first(1, lambda server, asked: error("slow down", 429)),
    "500 at first": first(1, lambda server, asked: error("oops", 500)),
    "500": lambda server, asked: error("oops", 500),
    "half an answer at first": first(1, lambda server, asked: replace(server.draw(asked), cut=100)),
    "half an image at first": first(1, _half_image),
    "half an image": _half_image,
    "a page": lambda server, asked: Reply(b"<html>busy</html>", kind="text/html"),
    "no image": lambda server, asked: Reply(b'{"created": 0, "data": []}'),
    "text": lambda server, asked: Reply(server.answer_with(b64_json=base64.b64encode(b"no image").decode())),
    "another size": _other_size,
    "jpeg": lambda server, asked: server.draw(asked, file_type="JPEG"),
    "webp": lambda server, asked: server.draw(asked, file_type="WEBP"),
    "its own url": _with_url(_own_url),
    "a relative url": _with_url(lambda server, asked: "/v1" + _own_url(server, asked).partition("/v1")[2]),
    "a data url": _with_url(_data_url),
    "a url elsewhere": _with_url(lambda server, asked: "http://169.254.169.254/latest/meta-data"),
    "a url of a file": _with_url(lambda server, asked: "file:///etc/passwd"),
    "openai": as_openai,
    "moderated": moderated,
    "no credit": lambda server, asked: error("You exceeded your quota.", 429, code="insufficient_quota"),
    "slow": _slowly,
    "slow, one edit": lambda server, asked: _slowly(server, asked) if _is_first_edit(server, asked) else NEVER,
}


@contextmanager
def image_server(server: ImageServer, port: int = 0):
    """Running, in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def do_GET(self):
            _, files, name = self.path.partition("/files/")
            if files:
                self._send(Reply(server.files[name], kind="image/png") if name in server.files else error("no", 404))
                return
            listed = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "x"}]}
            self._send(self._unknown() or Reply(json.dumps(listed).encode()))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.headers.append(dict(self.headers))
            route = self.path.rpartition("/")[2]
            if route not in ("generations", "edits"):
                self._send(error("Not Found", 404))
                return
            payload, image = _form(self.headers["Content-Type"], body) if route == "edits" else (json.loads(body), None)
            self._send(self._unknown() or server.answer(route, payload, image))

        def _unknown(self) -> Reply | None:
            given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            if server.key in (None, given):
                return None
            return error(f"Incorrect API key provided: {given}.", 401, code="invalid_api_key")

        def _send(self, reply: Reply) -> None:
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(reply.status)
                headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), **reply.headers}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body[: reply.cut])

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close, request_queue_size = True, False, 128

    listening = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    server.base_url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()


def _form(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """The fields of a multipart form, and its one image."""
    parsed = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parts = {str(part.get_param("name", header="content-disposition")): _content(part) for part in parsed.iter_parts()}
    image = parts.pop("image")
    return {name: content.decode() for name, content in parts.items()}, image


def _content(part: Any) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def main(argv: list[str] | None = None) -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description="OpenAI's image routes around the micro FLUX")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--mode", choices=sorted(MODES), help="how it misbehaves")
    parser.add_argument("--log", type=Path, help="a file that gets a line for each image: route, request, image")
    parser.add_argument("--salt", type=int, default=0, help="another one draws other noise")
    parser.add_argument("--plain", action="store_true", help="no models: noise of any size")
    asked = parser.parse_args(argv)
    painter, sizes = (plain_painter, ()) if asked.plain else (MicroPainter(), ("32x32",))
    mode = MODES[asked.mode] if asked.mode else None
    server = ImageServer(painter, mode, sizes=sizes, log=asked.log, salt=asked.salt)
    with image_server(server, asked.port):
        print(f"{MODEL} at {server.base_url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
