"""One driver at a time: a lease with a heartbeat, and the storage of whoever holds it.

No two clocks are compared. A holder on this machine lives as long as its process does; one elsewhere lives as long as
its record changes while somebody watches. A holder that was only asleep cannot write any more once another has the
lease: `Lease.storage` sees to that (schemas/storage.py).
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from schemas.errors import LeaseHeldError, ReflectionFlowError
from schemas.storage import FREE, Storage, holder_of, is_free

log = logging.getLogger(__name__)
HEARTBEAT_S = 10.0
STALE_AFTER_S = 60.0
"""A holder on another machine is gone when its record stayed the same for so long under watch."""
_LOOKS = 30
"""How often it is looked at in that time. Looks are counted, so that a watcher that was frozen itself does not take its
own sleep for the other's."""


class Lease:
    """Held while a driver works in a run folder: `with Lease(storage) as lease: ... lease.storage.commit(...)`."""

    def __init__(self, storage: Storage, *, take_over: bool = False) -> None:
        self._base, self.take_over = storage, take_over
        self.token = secrets.token_hex(8)
        self.storage: Storage = storage
        self.lost = threading.Event()
        self._version: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> "Lease":
        version, record = self._base.lease()
        if not self.take_over:
            version = self._wait_for_the_dead(version, record)
        self.storage = self._base.fenced(self.token)
        try:
            self._version = self._base.swap_lease(version, self._record())
            if self._version is None:
                raise LeaseHeldError(
                    f"{self._base.uri}: another driver took the lease at the same moment\n"
                    f"  it makes what is missing here; the same command goes on when it has ended"
                )
            self.storage.fence_off_others()
        except BaseException:
            self.storage.lift_fence()
            raise
        self._thread.start()
        return self

    def check(self) -> None:
        """LeaseHeldError when another driver has the lease by now."""
        if self.lost.is_set():
            raise LeaseHeldError(f"{self._base.uri}: another driver took over this folder; this one stops")

    def _wait_for_the_dead(self, version: Any, record: bytes) -> Any:
        """The version to take the place of. LeaseHeldError when its holder lives."""
        holder = holder_of(record)
        if version is None or is_free(record):
            return version
        if holder.get("machine") == _machine():
            state = _process_state(holder.get("pid"), holder.get("process_started"))
            if state is None:
                return version
            asleep = f"; it is stopped, `kill -CONT {holder['pid']}` wakes it" if state in "Tt" else ""
            raise self._held(holder, f"on this machine{asleep}")
        who = _name(holder)
        log.warning(
            "%s: %s has the lease; watching for a sign of life, %.0f s at most (--take-over does not wait)",
            self._base.uri,
            who,
            STALE_AFTER_S,
        )
        for _ in range(_LOOKS):
            time.sleep(STALE_AFTER_S / _LOOKS)
            seen, record = self._base.lease()
            if seen != version:
                if is_free(record) or seen is None:
                    return seen
                raise self._held(holder_of(record), "it was heard while this one watched")
        log.warning("%s: not a sign of %s; taking over", self._base.uri, who)
        return version

    def _held(self, holder: dict[str, Any], why: str) -> LeaseHeldError:
        return LeaseHeldError(
            f"{self._base.uri}: another driver works here ({_name(holder)}; {why})\n"
            f"  wait for it, stop it, or take over with --take-over when you know that it is gone"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            if not self.lost.is_set():
                self._base.swap_lease(self._version, FREE)
        except ReflectionFlowError as away:
            log.warning("%s: the lease could not be given back (%s)", self._base.uri, away)
        finally:
            self.storage.lift_fence()

    def _record(self) -> bytes:
        record = {
            "token": self.token,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "heartbeat_at": time.time(),  # for people; and so that every record is another
        }
        return json.dumps(record).encode()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                version = self._base.swap_lease(self._version, self._record())
                if version is None:
                    # Taken over; or a beat arrived whose answer did not.
                    version, record = self._base.lease()
                    if holder_of(record).get("token") != self.token:
                        self.lost.set()
                        return
                self._version = version
            except ReflectionFlowError:
                continue  # storage is away for a moment; work itself will notice if it stays away


def _name(holder: dict[str, Any]) -> str:
    return (
        f"process {holder['pid']} on {holder.get('host')}" if "pid" in holder else "somebody whose record does not read"
    )


def _machine() -> str:
    """Where process numbers mean the same: this boot of this machine, and this container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _process_started(pid: int) -> str | None:
    """Start time of a process in kernel ticks, None when there is no such process. Tells a reused pid from the old
    one."""
    found = _stat(pid)
    return found[19] if found else None


def _process_state(pid: Any, started: Any) -> str | None:
    """The kernel's letter for what a process does, None when it is gone."""
    found = _stat(pid)
    return found[0] if found and found[19] == started else None


def _stat(pid: Any) -> list[str] | None:
    try:
        with open(f"/proc/{int(pid)}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (OSError, ValueError, TypeError):
        return None
    return None if fields[0] == "Z" else fields
