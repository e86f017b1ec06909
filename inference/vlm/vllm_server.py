"""A vLLM server: one for everybody on this machine who asks for the same, started by whoever is first, started again
when it dies, gone with the last one who uses it.

It runs under `vllm_guard`, which watches a lock that every user holds: whichever process is killed, the others go on,
and nothing stays behind. Where a cluster serves models (`pipelines/runtime/vlm_deployment.py`), `open_server` gives
what that has instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from inference.model_store import model_digest, resolve_model
from inference.vlm import vllm_guard
from inference.vlm.adapters import merged_folder
from schemas.configuration import content_key
from schemas.errors import WorkFailedError
from schemas.telling import telling

log = logging.getLogger(__name__)

# Two cores for everything else too: threads that spin while they wait would take them.
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_STARTS = 2


@dataclass(frozen=True)
class VllmServerConfig:
    """What is served, and with what."""

    model: str
    """A VLM, as `VlmConfig.model` names it; served under this name."""
    dtype: str = "bfloat16"
    max_images: int = 2
    arguments: tuple[str, ...] = ()
    """More arguments of vLLM's API server."""
    device: str = "cuda"
    gpus: float = 1.0
    """Of one vLLM, on a cluster."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory that it takes."""
    replicas: int = 0
    """vLLMs on a cluster; 0: one, and more while there is work for them and GPUs are free."""
    start_timeout_s: float = 900.0

    @property
    def key(self) -> str:
        """Those with the same one share a server: where the model lies is nothing, what is in it counts.
        MissingWeightsError."""
        said = asdict(self)
        del said["start_timeout_s"]  # how patient one is
        return content_key(said, model_digest(self.model))

    @property
    def gpus_each(self) -> float:
        """Of one vLLM: several where the model is divided over GPUs."""
        if self.device == "cpu":
            return 0.0
        said = engine_arguments(self.arguments)
        return self.gpus * said.get("tensor_parallel_size", 1) * said.get("pipeline_parallel_size", 1)

    def folder(self) -> Path:
        """With weights, tokenizer and processor; an adapter merged. MissingWeightsError."""
        return merged_folder(resolve_model(self.model), model_digest(self.model), self.dtype)

    def all_arguments(self) -> list[str]:
        """vLLM's, but for where it listens and what it loads."""
        arguments = [
            *("--served-model-name", self.model, "--dtype", self.dtype),
            *("--limit-mm-per-prompt", f'{{"image":{self.max_images}}}'),
            *self.arguments,
        ]
        if self.device != "cpu" and "--gpu-memory-utilization" not in self.arguments:
            arguments += ["--gpu-memory-utilization", f"{self.gpu_memory:g}"]
        return arguments


def engine_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """vLLM's arguments of a command line, as those of its engine: `--max-model-len 8192` is {"max_model_len": 8192}."""
    found: dict[str, Any] = {}
    name = ""
    for word in arguments:
        flag, is_set, value = word.partition("=")
        if word.startswith("--"):
            name = flag.removeprefix("--").replace("-", "_")
            off = name.startswith("no_") and not is_set
            name = name.removeprefix("no_") if off else name
            found[name] = _plain(value) if is_set else not off
        else:
            found[name] = _plain(word)
    return found


def _plain(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


class Server(Protocol):
    """Something that serves a model for as long as it is held."""

    def ensure(self) -> str:
        """An OpenAI-compatible address that answers now. WorkFailedError where none does in time."""
        ...


class VllmServer:
    """This machine's vLLM of a configuration. See `Server`."""

    def __init__(self, config: VllmServerConfig) -> None:
        """Starts nothing yet, but keeps one that is there."""
        self.config = config
        # Of other GPUs of this machine it is another server.
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES") if config.device != "cpu" else None
        self.runtime = _runtime_folder() / content_key(config.key, gpus)
        self.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._users = os.open(self.runtime / "users", os.O_RDWR | os.O_CREAT, 0o600)
        # Waits where a guard is ending what nobody used until now.
        fcntl.flock(self._users, fcntl.LOCK_SH)
        self._finalizer = weakref.finalize(self, _let_go, self.runtime, self._users)
        self._starting = threading.Lock()
        self._failed_at, self._failure = -math.inf, ""

    @property
    def log_path(self) -> Path:
        """What vLLM says."""
        return self.runtime / "vllm.log"

    @property
    def is_running(self) -> bool:
        """Whether it is guarded; it may still be loading."""
        return _is_guarded(self.runtime)

    def ensure(self) -> str:
        """See `Server`: starts vLLM unless it answers, and waits until it does. Threads that come meanwhile wait for
        the same start, and fail with it."""
        if address := self._answering():
            return address
        came = time.monotonic()
        with waiting(), self._starting:
            if self._failed_at > came:
                raise WorkFailedError(self._failure)
            starting = f"starting vLLM of {self.config.model}"
            with telling(f"{starting} (it says in {self.log_path})", again=starting):
                try:
                    return self._started()
                except WorkFailedError:
                    raise
                except Exception as error:  # of merging an adapter, of a full disk
                    raise self._failed(
                        f"of {self.config.model} does not start: {type(error).__name__}: {error}"
                    ) from error

    def _answering(self) -> str:
        """The address, where it is well; "" elsewhere."""
        port = vllm_guard.read_state(self.runtime).get("port", 0)
        return f"http://127.0.0.1:{port}/v1" if port and answers(f"http://127.0.0.1:{port}/health", 2) else ""

    def _started(self) -> str:
        starts, deadline = 0, time.monotonic() + self.config.start_timeout_s
        while not (address := self._answering()):
            if time.monotonic() > deadline:
                self._end()  # it may hang: the next `ensure` of anybody begins anew
                self._fail(f"in {self.config.start_timeout_s:.0f} s")
            if not self.is_running:
                # A server whose engine died is still there for a moment, and then is not: it gets a second start.
                if starts == _STARTS:
                    self._fail(f"after {starts} starts")
                starts += self._start()
            time.sleep(0.25)
        return address

    def close(self) -> None:
        """Let go of it; it ends, with all its processes, unless others use it."""
        self._finalizer()

    def _start(self) -> bool:
        """Whether this process was the one that started it."""
        with open(self.runtime / "start", "a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if self.is_running:
                return False
            config = self.config
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            command = [
                *(sys.executable, str(Path(vllm_guard.__file__)), str(self.runtime), str(port), sys.executable),
                *("-m", "vllm.entrypoints.openai.api_server", "--model", str(config.folder())),
                *("--host", "127.0.0.1", "--port", str(port), *config.all_arguments()),
            ]
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
            if config.device == "cpu":
                environment = {**CPU_ENVIRONMENT, **environment}
            with open(self.log_path, "wb") as output:
                # Of a group of its own: a SIGTERM to ours lets the block at hand be finished, which needs the vLLM.
                guard = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, process_group=0
                )
            log.info("started vLLM of %s at port %d; it says in %s", config.model, port, self.log_path)
            while not self.is_running and guard.poll() is None:
                time.sleep(0.02)
            return True

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(vllm_guard.read_state(self.runtime)["guard"], signal.SIGTERM)

    def _fail(self, when: str) -> None:
        said = self.log_path.read_text(errors="replace")[-2000:] if self.log_path.exists() else ""
        raise self._failed(f"does not serve {self.config.model} {when}; its last words ({self.log_path}):\n{said}")

    def _failed(self, how: str) -> WorkFailedError:
        self._failed_at, self._failure = time.monotonic(), f"vLLM {how}"
        return WorkFailedError(self._failure)


who_wait: set[int] = set()
"""Threads of this process that wait for a vLLM to start: whatever else they are at does not take long for that."""


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """This thread does."""
    thread = threading.get_ident()
    who_wait.add(thread)
    try:
        yield
    finally:
        who_wait.discard(thread)


_opens: Callable[[VllmServerConfig], Server] = VllmServer


def open_server(config: VllmServerConfig) -> Server:
    """Whatever serves models here."""
    return _opens(config)


@contextlib.contextmanager
def started_when_opened() -> Iterator[None]:
    """What is opened inside is started at once, where it is else by the first question: for whoever must know that it
    starts, or wants it up before there is work."""
    before = _opens

    def opens(config: VllmServerConfig) -> Server:
        server = before(config)
        server.ensure()
        return server

    serve_with(opens)
    try:
        yield
    finally:
        serve_with(before)


def serve_with(opens: Callable[[VllmServerConfig], Server]) -> None:
    """From now on, models of this process are served so: a worker of a cluster says it once."""
    global _opens
    _opens = opens


def _runtime_folder() -> Path:
    """Of this user, on this machine: gone when it is switched off."""
    home = os.environ.get("XDG_RUNTIME_DIR")
    return Path(home) / "reflectionflow" if home else Path(tempfile.gettempdir()) / f"reflectionflow-{os.getuid()}"


def answers(url: str, timeout_s: float) -> bool:
    """Whether a server says that all is well there."""
    place = urlsplit(url)
    deadline = time.monotonic() + timeout_s  # of all of it, however the answer may drip
    status, wanted = b"", len(b"HTTP/1.1 200")
    try:
        with socket.create_connection((place.hostname or "", place.port or 80), timeout_s) as server:
            host = place.netloc.rpartition("@")[2]
            server.sendall(f"GET {place.path or '/'} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            while len(status) < wanted and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                if not (part := server.recv(wanted - len(status))):
                    break
                status += part
    except (OSError, ValueError):
        return False
    return re.fullmatch(rb"HTTP/1\.[01] 200", status) is not None


def _is_guarded(runtime: Path) -> bool:
    held = vllm_guard.try_lock(runtime / "guard", fcntl.LOCK_SH)
    if held is None:
        return True
    os.close(held)
    return False


def _let_go(runtime: Path, users: int) -> None:
    """Close the lock. Where it was the last, end the server now and wait for it: its GPU is wanted next."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # others use it, or the guard has found that nobody does
    else:
        with contextlib.suppress(ProcessLookupError, KeyError):
            os.kill(vllm_guard.read_state(runtime)["guard"], signal.SIGTERM)
        deadline = time.monotonic() + 30
        while _is_guarded(runtime) and time.monotonic() < deadline:
            time.sleep(0.05)
    os.close(users)
