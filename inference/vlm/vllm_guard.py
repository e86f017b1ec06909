"""Runs a command in a process group of its own for as long as anybody uses it, and then ends the whole group.

Started as `python vllm_guard.py FOLDER PORT COMMAND...`. Who uses it holds a shared lock on `FOLDER/users`; the system
lets go of a lock when its process dies, however it dies, so no engine of vLLM stays behind on a GPU. The guard holds
`FOLDER/guard` while it lives, and `FOLDER/state.json` says what it guards. Needs nothing but the standard library.

The guard is its parent's grandchild: Ray, when it ends an actor, kills the actor's children first, and a guard that is
killed guards nothing. The child between them waits, and ends the group where the guard was killed.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_POLL_S = 0.2
_GRACE_S = 5.0


def guard_from_below(folder: Path, port: int, command: list[str]) -> int:
    """Fork; the child guards the command, and this process waits for it and passes its exit code on."""
    guard = os.fork()
    if guard == 0:
        os.setsid()
        return main(folder, port, command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(guard, number))
    code = os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1])
    if code < 0:
        end_orphans(folder)
    return code if code >= 0 else 143


def main(folder: Path, port: int, command: list[str]) -> int:
    """The command's exit code; 143 where it was ended from outside, or another guard was first."""
    while try_lock(folder / "guard") is None:
        # Whoever looks whether there is a guard shares its lock for a moment, or for as long as it gets no time; a
        # guard shares it with nobody.
        shared = try_lock(folder / "guard", fcntl.LOCK_SH)
        if shared is None:
            return 143
        os.close(shared)
        time.sleep(_POLL_S / 10)
    end_orphans(folder)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    state = {"port": port, "guard": os.getpid(), "group": process.pid, "born": birth_of(process.pid)}
    write_state(folder, state)
    # With the last user's lock in hand, whoever comes now waits until the group is gone.
    while process.poll() is None and not asked and try_lock(folder / "users") is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
    end_group(process)
    (folder / "state.json").unlink(missing_ok=True)
    return process.returncode if process.returncode is not None and process.returncode >= 0 else 143


def try_lock(path: Path, kind: int = fcntl.LOCK_EX) -> int | None:
    """An open file with the lock, or None where others hold it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def read_state(folder: Path) -> dict[str, int]:
    """What the guard said; empty where there is none."""
    try:
        return json.loads((folder / "state.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}


def write_state(folder: Path, state: dict[str, int]) -> None:
    """In one piece."""
    unfinished = folder / f"state.{os.getpid()}"
    unfinished.write_text(json.dumps(state))
    unfinished.replace(folder / "state.json")


def end_orphans(folder: Path) -> None:
    """Whatever a guard that was killed has left: a group whose number is that of the one it started. A number whose
    leader was born at another time is somebody else's."""
    state = read_state(folder)
    group = state.get("group", 0)
    if group and birth_of(group) in (0, state.get("born")):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    (folder / "state.json").unlink(missing_ok=True)


def birth_of(pid: int) -> int:
    """Clock ticks since the machine started; 0 where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """TERM to the group, then KILL to whatever is left of it: children outlive a leader that was killed."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(guard_from_below(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
