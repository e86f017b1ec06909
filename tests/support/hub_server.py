"""A hub on loopback: the few paths that reading a dataset needs, as huggingface_hub asks for them. A real client, no
real hub. `requests`: (method, path, range) of every request."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"


class HubServer:
    """Serves the files of `folder` as the dataset `name`."""

    def __init__(self, name: str, folder: Path) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            dataset, root, state = name, folder, hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    dataset: str
    root: Path
    state: HubServer

    def do_GET(self) -> None:
        self.state.requests.append((self.command, self.path, self.headers.get("Range")))
        url = urlsplit(self.path)
        path = unquote(url.path)
        api, resolve = f"/api/datasets/{self.dataset}", f"/datasets/{self.dataset}/resolve/"
        if path.startswith(f"{api}/tree/"):
            folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
            there = (self.root / folder).is_dir()
            self._json([self._entry(p) for p in sorted((self.root / folder).iterdir())] if there else None)
        elif path.startswith(f"{api}/paths-info/"):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self._json([self._entry(self.root / p) for p in asked if (self.root / p).exists()])
        elif path == api or path.startswith(f"{api}/revision/"):
            self._json({"id": self.dataset, "sha": COMMIT, "siblings": [], "tags": []})
        elif path.startswith(resolve) and (self.root / path.removeprefix(resolve).partition("/")[2]).is_file():
            self._file((self.root / path.removeprefix(resolve).partition("/")[2]).read_bytes())
        else:
            self._json(None)

    do_POST = do_HEAD = do_GET

    def _entry(self, path: Path) -> dict[str, object]:
        kind = "directory" if path.is_dir() else "file"
        size = 0 if path.is_dir() else path.stat().st_size
        return {"type": kind, "path": path.relative_to(self.root).as_posix(), "size": size, "oid": "0" * 40}

    def _file(self, data: bytes) -> None:
        status, asked = 200, self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            status, data = 206, data[int(first) : int(last) + 1]
        self._answer(status, data, {"ETag": '"0"', "X-Repo-Commit": COMMIT})

    def _json(self, value: object) -> None:
        missing = "EntryNotFound" if f"/{self.dataset}" in self.path else "RepoNotFound"
        if value is None:
            self._answer(404, b'{"error": "not there"}', {"X-Error-Code": missing})
        else:
            self._answer(200, json.dumps(value).encode(), {})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""
