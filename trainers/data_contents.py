"""What a training learns from, known by its content: a moved folder is the same data, a replaced file is other data.

A local file is read through once; who made sure of it before knows it again by its size, its times and its inode. Of an
object store's files the sidecars say the digest, where a run wrote them; a dataset of the hub has its commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.atomic_file import write_whole
from schemas.digests import file_digest, file_stamp
from schemas.errors import InputError
from schemas.hub_storage import SCHEME as HUB
from schemas.storage import Storage

KNOWN = "data_digests.json"
_FRESH_S = 2.0  # a file that changed so lately may change again within one tick of its clock
_MAX_NAMED = 3
_BLOB = re.compile(r"[0-9a-f]{64}")


def digests_of_data(storage: Storage, names: Sequence[str], cache: Path | None = None) -> tuple[str, ...]:
    """Hexadecimal digests of files' contents. cache: a folder that keeps them. FileNotFoundError, StorageError."""
    with _alone(cache):
        known = _read(cache)
        found = [_digest(storage, name, known) for name in names]
        kept = {key: [stamp, digest, _sum_of(stamp, digest)] for key, stamp, digest in found if key and stamp}
        if cache is not None and any(known.get(place) != entry for place, entry in kept.items()):
            write_whole(cache / KNOWN, json.dumps(known | kept, indent=1) + "\n")
    return tuple(digest for _, _, digest in found)


def _digest(storage: Storage, name: str, known: Mapping[str, Any]) -> tuple[str, str, str]:
    """A file's place, how it is known again (empty: not at all), and its digest."""
    place = f"{storage.uri}/{name}"
    if storage.uri.startswith(HUB):  # it names the commit
        return "", "", hashlib.sha256(f"{place} {storage.size(name)}".encode()).hexdigest()
    if "://" not in storage.uri:
        path = Path(storage.uri, name)
        if _BLOB.fullmatch((blob := path.resolve()).name) and blob.parent.name == "blobs":
            return "", "", blob.name  # of the hub's cache, which names large files by their SHA-256
        stamp = _stamp(path)
        if not stamp or known.get(place, [None])[0] != stamp:
            return place, stamp, file_digest(path)
        return place, stamp, known[place][1]
    size = storage.size(name)
    said = _sidecar_digest(storage, name, size)
    if said:
        return "", "", said
    stamp = f"{size} {_ends(storage, name, size or 0)}"
    if known.get(place, [None])[0] == stamp:
        return place, stamp, known[place][1]
    with storage.open(name) as file:
        return place, stamp, hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def _stamp(path: Path) -> str:
    """How a file is known again; empty for one that changed this moment."""
    return "" if abs(time.time() - path.stat().st_ctime) < _FRESH_S else file_stamp(path)


def _ends(storage: Storage, name: str, size: int) -> str:
    """Of the first and the last bytes of a file on an object store."""
    with storage.open(name) as file:
        start = file.read(2**16)
        file.seek(max(0, size - 2**16))
        return hashlib.sha256(start + file.read(2**16)).hexdigest()


def _sidecar_digest(storage: Storage, name: str, size: int | None) -> str:
    """What the sidecar that a run wrote beside a shard says of it; empty where there is none, or of another size."""
    try:
        said = json.loads(storage.read(f"{name.removesuffix('.tar')}.json"))
    except (FileNotFoundError, ValueError, RecursionError):
        return ""
    is_its_own = isinstance(said, dict) and said.get("num_bytes") == size and isinstance(said.get("sha256"), str)
    return said["sha256"] if is_its_own else ""


@contextlib.contextmanager
def _alone(cache: Path | None) -> Iterator[None]:
    """One process of a machine at a time: the others find what the first one read."""
    import fcntl

    if cache is None:
        yield
        return
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f".{KNOWN}.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: each reads for itself
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(cache: Path | None) -> dict[str, Any]:
    try:
        said = json.loads((cache / KNOWN).read_bytes()) if cache is not None else {}
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    entries = said.items() if isinstance(said, dict) else ()
    return {
        place: entry
        for place, entry in entries
        if isinstance(entry, list) and len(entry) == 3 and entry[2] == _sum_of(*entry[:2])
    }


def _sum_of(*said: str) -> str:
    """Of what is kept: a digest that was damaged must not be taken for that of other data."""
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def check_same_data(now: Mapping[str, str], before: Mapping[str, str], data: str, out: Path) -> None:
    """Digests by name, in order, of what a training reads now and of what it read before. InputError that names the
    files that differ; other names alone are nothing."""
    if list(now.values()) == list(before.values()):
        return
    same_names = now.keys() == before.keys()
    if same_names or len(now) == len(before):  # of renamed files the n-th was the n-th
        was = before if same_names else dict(zip(now, before.values(), strict=True))
        differing = [f"{name} has other contents" for name in now if now[name] != was[name]]
    else:
        gone = [f"{name} is missing" for name, digest in before.items() if digest not in now.values()]
        new = [f"{name} is new" for name, digest in now.items() if digest not in before.values()]
        differing = gone + new or ["the same files come in another order, or one of them twice"]
    shown = "; ".join(differing[:_MAX_NAMED])
    more = f"; {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
    raise InputError(
        f"{out} was trained on other data: {shown}{more}",
        file=data,
        field="--data",
        expected="the files that it was started with, wherever they lie; or another --out",
    )
