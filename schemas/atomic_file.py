"""Files that appear whole or not at all: a reader sees the old one or the new one, after a crash of the machine too.

Bytes are on the disk before the name is, and the name before anyone is told: write beside the target, fsync, rename,
fsync the folder. The folder of the target must be there.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""What names of unfinished files begin with; a killed process leaves them behind."""


def write_whole(path: Path, data: bytes | str) -> None:
    """Put complete bytes, or text as UTF-8, under `path`, in place of what was there. OSError as from any write."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def create_whole(path: Path, data: bytes) -> bool:
    """The same under a name that nobody holds yet. False, and nothing is changed, when somebody does."""
    temporary = _beside(path)
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        _sync(path.parent)
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, for libraries that write files themselves (NumPy gives it a suffix of its own, and
    wants it opened). The file takes the place of `path` when the block ends, and is removed when an exception ends
    it."""
    temporary = _beside(path)
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def put_in_place(finished: Path, target: Path) -> None:
    """Rename a finished file, or a folder of them, to its final name on the same disk. OSError for a folder where a
    folder with files is already."""
    for path in finished.rglob("*") if finished.is_dir() else ():
        _sync(path)
    _sync(finished)
    os.replace(finished, target)
    _sync(target.parent)


def _beside(path: Path) -> Path:
    # A name of its own, so that two writers of one file do not write into each other's half; with another suffix, so
    # that whoever looks for *.tar does not find a half.
    return path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
