"""Where runs live: a folder whose files appear whole or not at all. The final name is the commit."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from schemas.atomic_file import TEMPORARY, create_whole, write_whole
from schemas.errors import StorageError


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

    def create(self, path: str, data: bytes) -> bool:
        """Put bytes under a name that nobody holds yet. False when somebody does."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file, None when there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Sorted names of files and folders directly in a folder, temporary ones left out; [] when there is no
        folder."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens when there is none."""
        ...

    def copy_from(self, other: "Storage", path: str) -> None:
        """Take the file at `path` from another storage, as cheaply as possible (hard link, server-side copy)."""
        ...

    def sweep(self) -> int:
        """Remove what never got its final name. Returns how many files."""
        ...


class LocalStorage:
    """A local folder: written under a temporary name, fsynced, renamed, and the folder fsynced."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.uri = str(root)
        self._made: set[Path] = set()

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
            write_whole(target, data)
        except OSError as error:
            raise _storage_error(target, error) from error

    def create(self, path: str, data: bytes) -> bool:
        target = self.root / path
        try:
            self._make_folder(target.parent)
            return create_whole(target, data)
        except OSError as error:
            raise _storage_error(target, error) from error

    def size(self, path: str) -> int | None:
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _storage_error(self.root / path, error) from error

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.root / folder) if not n.startswith(TEMPORARY))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _storage_error(self.root / folder, error) from error

    def delete(self, path: str) -> None:
        target = self.root / path
        try:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
                self._made.clear()
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(target, error) from error

    def copy_from(self, other: Storage, path: str) -> None:
        if isinstance(other, LocalStorage):
            target = self.root / path
            try:
                self._make_folder(target.parent)
                os.link(other.root / path, target)
                return
            except FileExistsError:
                return
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
                    raise _storage_error(target, error) from error
        self.commit(path, other.read(path))

    def sweep(self) -> int:
        stale = list(self._temporary_files())
        for path in stale:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _storage_error(path, error) from error
        return len(stale)

    def _temporary_files(self) -> Iterator[Path]:
        for folder, _, files in os.walk(self.root):
            yield from (Path(folder) / name for name in files if name.startswith(TEMPORARY))

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._made:
            folder.mkdir(parents=True, exist_ok=True)
            self._made.add(folder)


def _storage_error(path: Path, error: OSError) -> StorageError:
    hint = {
        errno.ENOSPC: "the disk is full: free some space, then `resume`",
        errno.EDQUOT: "the quota is used up: free some space, then `resume`",
        errno.EROFS: "the file system is read-only: choose another folder, or remount it, then `resume`",
        errno.EACCES: "no permission: check who owns the folder, then `resume`",
        errno.EPERM: "not permitted: check who owns the folder, then `resume`",
    }.get(error.errno or 0, "the folder can be resumed once storage answers again")
    return StorageError(f"{path}: {error.strerror or error}; {hint}")
