"""A vLLM server of our own: started, watched, started again when it dies, gone when its user is.

It runs under `vllm_guard`, which ends vLLM's whole process group when this process dies, however it dies. Whoever asks
for the same server in one process shares it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.vlm import vllm_guard
from schemas.errors import WorkFailedError

log = logging.getLogger(__name__)

_SHARED: weakref.WeakValueDictionary[VllmServerConfig, VllmServer] = weakref.WeakValueDictionary()
_SHARED_LOCK = threading.Lock()
# Two cores for everything else too: threads that spin while they wait would take them.
_CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class VllmServerConfig:
    """What is served. `folder` holds weights, tokenizer and processor."""

    folder: str
    served_name: str
    dtype: str = "bfloat16"
    max_images: int = 2
    arguments: tuple[str, ...] = ()
    """More arguments of vLLM's API server."""
    device: str = "cuda"
    start_timeout_s: float = 900.0


class VllmServer:
    """An OpenAI-compatible address that is alive whenever `ensure` has returned."""

    def __init__(self, config: VllmServerConfig) -> None:
        """Starts nothing yet. WorkFailedError where vLLM is not installed."""
        self.config = config
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        log_file, self.log_path = tempfile.mkstemp(prefix="vllm-", suffix=".log")
        os.close(log_file)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._finalizer: Any = weakref.finalize(self, _nothing)

    @classmethod
    def shared(cls, config: VllmServerConfig) -> VllmServer:
        """The server of this configuration in this process; it ends when nobody holds it any more."""
        with _SHARED_LOCK:
            server = _SHARED.get(config)
            if server is None:
                server = _SHARED[config] = cls(config)
            return server

    @property
    def base_url(self) -> str:
        """For the `openai` client."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def is_running(self) -> bool:
        """Whether there is a process; it may still be loading."""
        return self._process is not None and self._process.poll() is None

    def ensure(self) -> None:
        """Start vLLM unless it answers, and wait until it does. WorkFailedError when it does not start."""
        with self._lock:
            # A server whose engine died is still there for a moment, and then is not: it gets a second start.
            for attempt in range(2):
                was_running = self.is_running
                if not was_running:
                    if self._process is not None:
                        log.warning("vLLM ended (code %s); it is started again", self._process.returncode)
                    self._start()
                if self._answers_in_time():
                    return
                self._finalizer()
                if not was_running or attempt:
                    said = Path(self.log_path).read_text(errors="replace")[-2000:]
                    raise WorkFailedError(
                        f"vLLM does not serve {self.config.folder}; its last words ({self.log_path}):\n{said}"
                    )

    def close(self) -> None:
        """End vLLM and all its processes; `ensure` may start it again."""
        with self._lock:
            self._finalizer()
            self._process = None

    def _start(self) -> None:
        config = self.config
        command = [
            *(sys.executable, str(Path(vllm_guard.__file__)), sys.executable),
            *("-m", "vllm.entrypoints.openai.api_server", "--model", config.folder),
            *("--served-model-name", config.served_name, "--host", "127.0.0.1", "--port", str(self.port)),
            *("--dtype", config.dtype, "--limit-mm-per-prompt", f'{{"image":{config.max_images}}}'),
            *config.arguments,
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        if config.device == "cpu":
            environment = {**_CPU_ENVIRONMENT, **environment}
        with open(self.log_path, "ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
            )
        self._finalizer = weakref.finalize(self, _end, self._process)

    def _answers_in_time(self) -> bool:
        deadline = time.monotonic() + self.config.start_timeout_s
        while self.is_running and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.25)
        return False

    def _answers(self) -> bool:
        import urllib.request  # a fortieth of a second that no command's --help should pay

        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


def _nothing() -> None:
    """A server that was never started."""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's pipe; it ends the group, and we wait for it."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    if process.poll() is None:
        process.kill()
        process.wait()
