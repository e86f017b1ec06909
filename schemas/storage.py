"""Where runs live: a folder whose files appear whole or not at all. The final name is the commit.

One writer at a time. Whoever holds the lease writes through `fenced(token)`: once another holds it, every write and
deletion of the former fails, also one that began before. In a local folder, files are finished on the writer's own
desk, `.lease/<token>`, and renamed from there; whoever takes the lease removes all other desks, and a rename from a
desk that is gone cannot be. An object store is asked for the lease before each write, and checks the version that was
seen then.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from schemas.atomic_file import NO_LINKS, TEMPORARY, create_whole, put_in_place, write_whole
from schemas.errors import LeaseHeldError, StorageError

LEASE = ".lease"
"""What is kept of the lease."""


class Storage(Protocol):
    """A folder. Paths are relative to it, with `/`. Missing files raise FileNotFoundError; all else StorageError."""

    uri: str

    def read(self, path: str) -> bytes: ...

    def open(self, path: str) -> BinaryIO:
        """A file to read parts of: footers and columns without the images beside them."""
        ...

    def commit(self, path: str, data: bytes) -> None:
        """Put complete bytes under their final name: a reader sees the old file, or the new one, never a part."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file, None when there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names of files and folders directly in a folder; [] when there is no folder. Names that begin with a
        dot are left out: unfinished files, and what desktops and file servers strew about."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens when there is none. A link is removed, never
        what it points to."""
        ...

    def copy_from(self, other: "Storage", path: str) -> None:
        """Take the file at `path` from another storage, as cheaply as possible (hard link, server-side copy)."""
        ...

    def sweep(self) -> int:
        """Remove what never got its final name. Returns how many files."""
        ...

    def lease(self) -> tuple[Any, bytes]:
        """Version and bytes of the lease's record; None and b"" before the first."""
        ...

    def swap_lease(self, version: Any, record: bytes) -> Any | None:
        """Put a record in the place of that version's (None: as the first). Its version, or None when there is another
        by now."""
        ...

    def fenced(self, token: str) -> "Storage":
        """The same folder as whoever has `token` in the lease's record writes to it: LeaseHeldError once another token
        stands there."""
        ...

    def fence_off_others(self) -> None:
        """Having the lease: end what others, who had it before, may still want to write."""
        ...

    def lift_fence(self) -> None:
        """Nothing more is written through this."""
        ...


FREE = json.dumps({"free": True}).encode()
"""The record of a lease that was given back."""


def is_free(record: bytes) -> bool:
    """True for the record of a lease that was given back."""
    return record == FREE


def holder_of(record: bytes) -> dict[str, Any]:
    """Whose record of a lease it is: `token`, and what the holder says of itself. {} for one that does not read:
    somebody was there, of whom nothing is known."""
    try:
        value = json.loads(record)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def lease_lost(where: str) -> LeaseHeldError:
    """Somebody else has the lease, so this was not written."""
    return LeaseHeldError(f"{where}: not written: another driver took over this folder; this one stops")


class LocalStorage:
    """A local folder: written under a temporary name, fsynced, renamed, and the folder fsynced."""

    def __init__(self, root: str | Path, token: str | None = None) -> None:
        self.root = Path(root)
        self.uri = str(root)
        self.token = token
        self._made: set[Path] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStorage, (self.uri, self.token)

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.root / path}") from None
        except OSError as error:
            raise _storage_error(self.root / path, error) from error

    def open(self, path: str) -> BinaryIO:
        try:
            return open(self.root / path, "rb")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{self.root / path}") from None
        except OSError as error:
            raise _storage_error(self.root / path, error) from error

    def commit(self, path: str, data: bytes) -> None:
        target = self.root / path
        try:
            self._make_folder(target.parent)
            if self.token is None:
                write_whole(target, data)
            else:
                self._finish(lambda temporary: temporary.write_bytes(data), target)
        except OSError as error:
            raise self._failed(target, error) from error

    def size(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _storage_error(self.root / path, error) from error

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.root / folder) if not n.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _storage_error(self.root / folder, error) from error

    def delete(self, path: str) -> None:
        target = self.root / path
        try:
            aside = target if self.token is None else self._take_away(target)
            if aside.is_dir() and not aside.is_symlink():
                # On the desk it has lost its name; whoever takes the lease in between removes the desk with it.
                shutil.rmtree(aside, ignore_errors=aside != target)
                self._made.clear()
            else:
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(target, error) from error

    def copy_from(self, other: Storage, path: str) -> None:
        target = self.root / path
        if isinstance(other, LocalStorage):
            source = other.root / path
            try:
                if target.exists():
                    return
                if not source.exists():
                    raise FileNotFoundError(str(source))
                self._make_folder(target.parent)
                if self.token is None:
                    os.link(source, target)
                else:
                    self._finish(lambda temporary: os.link(source, temporary), target)
                return
            except (FileExistsError, FileNotFoundError) as error:
                if not source.exists():
                    raise
                if not target.exists():
                    raise self._failed(target, error) from error
                return
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise self._failed(target, error) from error
        self.commit(path, other.read(path))

    def sweep(self) -> int:
        stale = list(self._temporary_files())
        for path in stale:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _storage_error(path, error) from error
        return len(stale)

    # The lease: its records are numbered files, the highest counts, and a number is given once.

    def lease(self) -> tuple[Any, bytes]:
        try:
            for _ in range(100):
                number = max(self._lease_numbers(), default=0)
                if not number:
                    return None, b""
                try:
                    return number, self._record(number).read_bytes()
                except FileNotFoundError:
                    continue  # the next one has taken its place
        except OSError as error:
            raise _storage_error(self.root / LEASE, error) from error
        raise StorageError(f"{self.root / LEASE}: does not stand still; is its clock or its file server sound?")

    def swap_lease(self, version: Any, record: bytes) -> Any | None:
        number = (version or 0) + 1
        try:
            with contextlib.suppress(FileExistsError):
                (self.root / LEASE).mkdir(parents=True)
            if not create_whole(self._record(number), record):
                return None
            numbers = self._lease_numbers()
            if max(numbers, default=0) > number:
                # Seen too late: others went on from that version, and removed the name that was free for this one.
                self._record(number).unlink(missing_ok=True)
                return None
            for older in numbers:
                if older < number:
                    self._record(older).unlink(missing_ok=True)
        except FileNotFoundError:
            return None  # others had the lease in between, and gave it back
        except OSError as error:
            raise _storage_error(self.root / LEASE, error) from error
        return number

    def fenced(self, token: str) -> "LocalStorage":
        storage = LocalStorage(self.uri, token)
        try:
            for _ in range(100):
                # Whoever gives the lease back at this moment removes the folder that the desk goes into.
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    storage._desk.mkdir(parents=True)
                    break
        except OSError as error:
            raise _storage_error(storage._desk, error) from error
        return storage

    def fence_off_others(self) -> None:
        try:
            for entry in os.scandir(self.root / LEASE):
                if entry.is_dir(follow_symlinks=False) and entry.name != self.token:
                    _remove_desk(Path(entry.path))
            self._check_desk(self.root)
        except FileNotFoundError:
            raise lease_lost(str(self.root)) from None
        except OSError as error:
            raise _storage_error(self.root / LEASE, error) from error

    def lift_fence(self) -> None:
        _remove_desk(self._desk)
        version, record = self.lease()
        if version is not None and is_free(record):
            # A finished folder looks as if nobody had been here. Whoever comes at this moment has a desk here already.
            with contextlib.suppress(OSError):
                self._record(version).unlink()
                (self.root / LEASE).rmdir()

    @property
    def _desk(self) -> Path:
        assert self.token is not None
        return self.root / LEASE / self.token

    def _record(self, number: int) -> Path:
        return self.root / LEASE / f"{number:06d}.json"

    def _lease_numbers(self) -> list[int]:
        try:
            names = os.listdir(self.root / LEASE)
        except (FileNotFoundError, NotADirectoryError):
            return []
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]

    def _finish(self, write: Callable[[Path], object], target: Path) -> None:
        """Have `write` make a file on the desk, and put it in its place. LeaseHeldError when the desk is gone."""
        temporary = self._desk / f"{secrets.token_hex(4)}-{target.name}"
        try:
            write(temporary)
            try:
                put_in_place(temporary, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # The folder is a link to another disk: no rename from the desk. A moment is left open there.
                write_whole(target, temporary.read_bytes())
        except FileNotFoundError as error:
            self._check_desk(target)
            # Somebody removed the folder that the file goes to.
            self._made.clear()
            raise StorageError(f"{target}: its folder was removed in between; `resume` goes on") from error
        finally:
            # Two names of one file stay two after a rename.
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _take_away(self, target: Path) -> Path:
        """Move what is to be deleted to the desk. LeaseHeldError when the desk is gone."""
        aside = self._desk / f"{secrets.token_hex(4)}-deleted"
        try:
            os.rename(target, aside)
        except (FileNotFoundError, NotADirectoryError):
            self._check_desk(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._check_desk(target)
            return target
        return aside

    def _failed(self, target: Path, error: OSError) -> Exception:
        """Whoever lost the lease may meet any error: others move what it is at. That is said then."""
        return lease_lost(str(target)) if self._is_lost() else _storage_error(target, error)

    def _check_desk(self, target: Path) -> None:
        if self._is_lost():
            raise lease_lost(str(target))

    def _is_lost(self) -> bool:
        return self.token is not None and not self._desk.is_dir()

    def _temporary_files(self) -> Iterator[Path]:
        for folder, _, files in os.walk(self.root):
            yield from (Path(folder) / name for name in files if name.startswith(TEMPORARY))

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)


def _remove_desk(desk: Path) -> None:
    """The name first, so that nothing new comes; then the files, so that a rename that had found the desk before finds
    them no more."""
    aside = desk.with_name(f"gone-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(desk, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _storage_error(path: Path, error: OSError) -> StorageError:
    hint = {
        errno.ENOSPC: "the disk is full: free some space, then `resume`",
        errno.EDQUOT: "the quota is used up: free some space, then `resume`",
        errno.EROFS: "the file system is read-only: choose another folder, or remount it, then `resume`",
        errno.EACCES: "no permission: check who owns the folder, then `resume`",
        errno.EPERM: "not permitted: check who owns the folder, then `resume`",
    }.get(error.errno or 0, "the folder can be resumed once storage answers again")
    return StorageError(f"{path}: {error.strerror or error}; {hint}")
