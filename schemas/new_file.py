"""Files and folders under names that nobody has yet: what a command made before is never written over."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from schemas.atomic_file import create_whole
from schemas.errors import InputError
from schemas.stop_signal import ended_like_interrupted

_MAX_NAME = 40


def write_new(path: Path, data: bytes | str, field: str) -> None:
    """Complete bytes under a name that nobody has; the same bytes there already will do. InputError, which names the
    flag `field`, for other bytes, and for a place that cannot be written to."""
    data = data.encode() if isinstance(data, str) else data
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if create_whole(path, data) or (path.is_file() and path.read_bytes() == data):
            return
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", file=str(path), field=field, expected="a place to write to"
        ) from error
    raise InputError("is there already, and is not written over", file=str(path), field=field, expected="a new name")


def write_all_new(folder: Path, files: Mapping[str, bytes], field: str) -> None:
    """Several files by name. InputError as above, before any is written, where one of them is there with other
    bytes."""
    for name, data in files.items():
        path = folder / name
        if path.exists() and not (path.is_file() and path.read_bytes() == data):
            raise InputError(
                "is there already, and is not written over", file=str(path), field=field, expected="another folder"
            )
    for name, data in files.items():
        write_new(folder / name, data, field)


@contextlib.contextmanager
def new_folder(out: Path | None, beside: Path, name: str) -> Iterator[Path]:
    """Where a command's files go: `out`, which must be new or empty; without one, a folder of its own in `beside`:
    name, name-2, name-3. It is made at once; it and the folders made for it are removed again, after SIGTERM too, where
    nothing came to lie in them. InputError for `out` with files in it, and for a place that cannot be written to."""
    place = out or beside
    with ended_like_interrupted():
        try:
            made = [one for one in (place, *place.parents) if not one.exists()]
            folder = _numbered(beside, name) if out is None else _empty(out)
        except OSError as error:
            raise InputError(
                f"cannot be made: {error.strerror}", file=str(out or beside), field="--out", expected="a folder"
            ) from error
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                for empty in made if out else (folder, *made):
                    empty.rmdir()


def short_name(text: str, otherwise: str) -> str:
    """A text as a file's name, of small letters, digits and dashes: "a-red-star". otherwise: for a text without any."""
    name = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) > _MAX_NAME:  # it ends with a whole word where it holds one
        name = name[: _MAX_NAME + 1].rpartition("-")[0] or name[:_MAX_NAME]
    return name or otherwise


def _numbered(beside: Path, name: str) -> Path:
    beside.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = beside / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is no last number")


def _empty(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    found = next((path.name for path in out.iterdir()), None)
    if found is not None:
        raise InputError(
            f"holds {found!r} already, and nothing is written over",
            file=str(out),
            field="--out",
            expected="a new folder, or no --out: every call gets a folder of its own then",
        )
    return out
