"""Runs a command in a process group of its own and ends the whole group when the command or the parent ends.

Started as `python vllm_guard.py COMMAND...` with a pipe as standard input: the pipe closes when the parent dies,
however it dies, so no engine process of vLLM stays behind on a GPU. Needs nothing but the standard library.

The guard is its parent's grandchild: Ray, when it ends an actor, kills the actor's children first, and a guard that is
killed guards nothing. The child between them only waits.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys

_POLL_S = 0.2
_GRACE_S = 5.0


def guard_from_below(command: list[str]) -> int:
    """Fork; the child guards the command, and this process waits for it and passes its exit code on."""
    guard = os.fork()
    if guard == 0:
        os.setsid()
        return main(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(guard, number))
    code = os.waitstatus_to_exitcode(os.waitpid(guard, 0)[1])
    return code if code >= 0 else 143


def main(command: list[str]) -> int:
    """The command's exit code; 143 where it was ended from outside."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end_group(process))
    while process.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], _POLL_S)
        if readable and not os.read(sys.stdin.fileno(), 1):
            break
    end_group(process)
    return process.returncode if process.returncode is not None and process.returncode >= 0 else 143


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
    sys.exit(guard_from_below(sys.argv[1:]))
