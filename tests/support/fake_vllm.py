"""A package where vLLM would be, whose server is up at once and says Yes to everything: what starts, shares and ends a
vLLM is what is tested with it."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import processes_with

_SERVER = """
import http.server, json, pathlib, sys, time
starts = pathlib.Path({starts!r})
with starts.open("a") as file:
    print("start", file=file)
time.sleep({seconds!r})
while not pathlib.Path({until!r}).exists():
    time.sleep(0.02)
if {broken!r}:
    raise SystemExit("no such card")
port = int(sys.argv[sys.argv.index("--port") + 1])
said = {{"index": 0, "finish_reason": "stop", "message": {{"role": "assistant", "content": "Yes"}}}}
usage = {{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
answer = {{"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [said], "usage": usage}}
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *said):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Server).serve_forever()
"""
A_VLM = '{"model_type": "qwen2_5_vl", "vision_config": {}}'  # all that is looked at before it is served


@dataclass(frozen=True)
class FakeVllm:
    """model: a folder that is served by it."""

    model: str
    starts_file: Path

    @property
    def starts(self) -> int:
        """So often was it started."""
        return len(self.starts_file.read_text().splitlines()) if self.starts_file.exists() else 0

    def servers(self) -> list[int]:
        """Processes of it that live now."""
        found = processes_with(f"--served-model-name {self.model}")
        return [pid for pid, line in found.items() if "vllm_guard" not in line]


def fake_vllm(tmp_path, monkeypatch, broken: bool = False, seconds: float = 0.2, until: Path = Path("/")) -> FakeVllm:
    """From now on in this test, `vllm` is this one. seconds: until it is up, and until this file is there. broken: it
    ends instead."""
    package = tmp_path / "packages" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, *package.parents[:2]):
        (folder / "__init__.py").touch()
    fake = FakeVllm(str(tmp_path / "model"), tmp_path / "starts")
    said = {"starts": str(fake.starts_file), "broken": broken, "seconds": seconds, "until": str(until)}
    (package / "api_server.py").write_text(_SERVER.format(**said))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(A_VLM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return fake
