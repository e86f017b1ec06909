"""Which bytes a folder of files was written with: a manifest, written last, that is checked before anything is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from schemas.atomic_file import TEMPORARY, write_whole
from schemas.errors import CorruptDataError

MANIFEST = "digests.json"
"""In a folder: SHA-256 of each of its files by name, with `/`."""
_THREADS = 4


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits. OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> str:
    """By what a file on this machine is known again without reading it: it changes with every write. OSError."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def digests_of(folder: Path, counts: Callable[[str], bool] = lambda name: True) -> dict[str, str]:
    """Of each file of a folder and of those in it; unfinished ones aside. counts: by name, which ones."""
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(TEMPORARY) for part in path.relative_to(folder).parts)
    }
    names = [name for name in paths if name != MANIFEST and counts(name)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: file_digest(paths[name]), names), strict=True))


def write_manifest(folder: Path) -> None:
    """Of a folder that is finished. OSError."""
    write_whole(folder / MANIFEST, json.dumps(digests_of(folder), indent=1) + "\n")


def check_manifest(folder: Path) -> None:
    """CorruptDataError that names the first file whose bytes are not those that were written. Nothing is said of a
    folder without a manifest, nor of files that came to it later."""
    try:
        said = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{folder / MANIFEST} does not read ({error})") from error
    if not isinstance(said, dict):
        raise CorruptDataError(f"{folder / MANIFEST} is no list of files with their digests")
    now = digests_of(folder, said.__contains__)
    for name, digest in said.items():
        if name not in now:
            raise CorruptDataError(f"{folder / name} is missing, which {MANIFEST} names")
        if now[name] != digest:
            raise CorruptDataError(f"{folder / name} has other bytes than were written (see {MANIFEST})")
