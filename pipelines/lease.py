"""One driver at a time: a lease file with a heartbeat."""

import json
import os
import secrets
import socket
import threading
import time
from types import TracebackType
from typing import Any

from schemas.errors import LeaseHeldError, ReflectionFlowError
from schemas.storage import Storage

HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
_PATH = "lease.json"
_FIELDS = {"token", "host", "pid", "process_started", "heartbeat_at"}


class Lease:
    """Held while a driver works in a run folder: `with Lease(storage): ...`.

    A lease whose process is gone (same host), or that missed heartbeats for `STALE_AFTER_S`, is taken over by itself.
    """

    def __init__(self, storage: Storage, *, take_over: bool = False) -> None:
        self.storage, self.take_over = storage, take_over
        self.token = secrets.token_hex(8)
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> "Lease":
        if not self.storage.create(_PATH, self._record()):
            holder = self._holder()
            if holder is not None and not self.take_over and _alive(holder):
                raise LeaseHeldError(
                    f"{self.storage.uri}: another driver works here (process {holder['pid']} on {holder['host']}, "
                    f"last heard {time.time() - holder['heartbeat_at']:.0f} s ago)\n"
                    f"  wait for it, stop it, or take over with --take-over when you know that it is gone"
                )
            if not self._replace(holder):
                raise LeaseHeldError(f"{self.storage.uri}: another driver took the lease at the same moment")
        self._thread.start()
        return self

    def _replace(self, holder: dict[str, Any] | None) -> bool:
        """Put this driver's lease in the place of a dead one's. Of several that try, one gets the claim to it; a claim
        whose owner died, too, can be claimed in turn."""
        claims: list[str] = []
        dead = holder
        while not self.take_over:
            claims.append(f"lease-{dead['token'] if dead else 'unreadable'}.claim")
            if self.storage.create(claims[-1], self._record()):
                break
            dead = self._read(claims[-1])
            if dead is None or _alive(dead):
                return False
        mine = self.take_over or self._holder() == holder
        if mine:
            self.storage.commit(_PATH, self._record())
        for claim in claims:
            self.storage.delete(claim)
        taken = self._holder()
        return mine and taken is not None and taken["token"] == self.token

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        holder = self._holder()
        if holder is not None and holder["token"] == self.token:
            self.storage.delete(_PATH)

    def _record(self) -> bytes:
        record = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "heartbeat_at": time.time(),
        }
        return json.dumps(record).encode()

    def _holder(self) -> dict[str, Any] | None:
        return self._read(_PATH)

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self.storage.read(path))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) and record.keys() >= _FIELDS else None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = self._holder()
                if holder is None or holder["token"] != self.token:
                    self.lost.set()
                    return
                self.storage.commit(_PATH, self._record())
            except ReflectionFlowError:
                continue  # storage is away for a moment; work itself will notice if it stays away


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        started = _process_started(holder["pid"])
        return started is not None and started == holder["process_started"]
    return time.time() - holder["heartbeat_at"] < STALE_AFTER_S


def _process_started(pid: int) -> str | None:
    """Start time of a process in kernel ticks, None when there is no such process. Tells a reused pid from the old
    one."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
