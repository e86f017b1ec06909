"""Files that appear whole or not at all: a reader sees the old one or the new one, after a crash of the machine too.

Bytes are on the disk before the name is, and the name before anyone is told: write beside the target, fsync, rename,
fsync the folder. The folder of the target must be there.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""What names of unfinished files begin with; a killed process leaves them behind."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL)
"""What `link` says on file systems without hard links."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a write says where a disk takes no more."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EISDIR, errno.EACCES)


def write_whole(path: Path, data: bytes | str) -> None:
    """Put complete bytes, or text as UTF-8, under `path`, in place of what was there. OSError as from any write."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def create_whole(path: Path, data: bytes) -> bool:
    """The same under a name that nobody holds yet. False, and nothing is changed, when somebody does."""
    temporary = _beside(path)
    try:
        temporary.write_bytes(data)
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_in_place(path, data)
        sync(path.parent)
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
        sync(path)
    sync(finished)
    os.replace(finished, target)
    sync(target.parent)


def _create_in_place(path: Path, data: bytes) -> bool:
    """Where there are no links the name comes before the bytes: a killed process may leave fewer of them."""
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    sync(path)
    sync(path.parent)
    return True


def _beside(path: Path) -> Path:
    # A name of its own, so that two writers of one file do not write into each other's half; with another suffix, so
    # that whoever looks for *.tar does not find a half.
    return path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk. Some file systems (FUSE, some of NFS) cannot be told to for
    folders, or at all: what they do by themselves has to do."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if path.is_dir() and error.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)
