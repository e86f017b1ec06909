"""Looking at processes from outside, and waiting for what they do."""

import contextlib
import time
from pathlib import Path


def processes_with(word):
    """pid -> command line of every living process that names the word."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if word in line and state != "Z":
                found[int(folder.name)] = line
    return found


def wait_until(holds, seconds=200.0):
    """Looks ten times a second."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def lines_above(pid):
    """Command lines of a process's ancestors that live, its parent's first."""
    found = []
    while pid := _parent_of(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def _parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
