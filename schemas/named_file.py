"""Files that somebody else names: a user on a command line or, with less trust, a data file. Regular files of a
bounded size alone: a FIFO would wait for ever, and /dev/zero has no end."""

import os
import stat
from pathlib import Path

from schemas.errors import InputError

MAX_TEXT_BYTES = 16 * 2**20
"""Of a template, a vocabulary, a file of metadata: a thousand times what anybody wrote."""
MAX_IMAGE_BYTES = 256 * 2**20


def read_file(path: Path, max_bytes: int, expected: str = "a regular file") -> bytes:
    """The bytes of a file that a user names; links are followed. InputError for what is no regular file, is larger, or
    does not read."""
    try:
        _refuse_other_kinds(path, path.stat().st_mode, expected)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            _refuse_other_kinds(path, os.fstat(descriptor).st_mode, expected)
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError("no such file", file=str(path), expected=expected) from None
    except OSError as error:
        raise InputError(f"does not read: {error.strerror}", file=str(path), expected=expected) from None
    except ValueError:  # a NUL in its name
        raise InputError("no name of a file", file=repr(str(path)), expected=expected) from None
    if len(data) > max_bytes:
        raise InputError(f"more than {max_bytes:,} bytes", file=str(path), expected=expected)
    return data


def read_named_file(folder: Path, name: str, max_bytes: int, expected: str = "a regular file") -> bytes:
    """The bytes of a file that a data file in `folder` names: one that lies, links followed, in that folder or below.
    InputError for any other, and as `read_file`."""
    try:
        root, path = folder.resolve(), (folder / name).resolve()
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL in it, links in a circle
        raise InputError(f"{name[:100]!r} is no name of a file", file=str(folder), expected=expected) from None
    if not path.is_relative_to(root):
        raise InputError(f"{name[:100]!r} lies outside of the folder", file=str(folder), expected=expected)
    return read_file(path, max_bytes, expected)


def _refuse_other_kinds(path: Path, mode: int, expected: str) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
        raise InputError(f"this is {kind}, no regular file", file=str(path), expected=expected)
