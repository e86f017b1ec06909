"""Which files a user means: one file, a folder, a glob, on this machine, on an object store or on the hub. Always in
one order: by name, numbers in it by their value (`genref_9.tar` before `genref_10.tar`), whoever lists them."""

import fnmatch
import re
from collections.abc import Iterable, Sequence

from schemas.errors import InputError
from schemas.hub_storage import SCHEME as HUB
from schemas.open_storage import open_storage
from schemas.places import checked_place
from schemas.shards import is_shard
from schemas.storage import Storage

_WILD = re.compile(r"[*?\[]")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts names with numbers by their value; names that differ in leading zeros alone have a fixed order, too."""
    parts = re.split(r"([0-9]+)", name)  # texts and numbers by turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def find_files(place: str, endings: Sequence[str]) -> tuple[Storage, list[str]]:
    """Storage of a folder, and the names below it of the files with one of the endings (".tar"), in natural order.

    place: a file; a folder, whose files count, or where it has none those in its folders; either with `*`, `?`,
    `[...]` in any part. No name where there is none; InputError for a file that is not there.
    """
    place = checked_place(place)
    root, parts = _split(place)
    fixed = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    if fixed == len(parts) and place.endswith(tuple(endings)):
        storage, name = open_storage(_joined(root, parts[:-1])), parts[-1]
        if storage.size(name) is not None:
            return storage, [name]
        if not storage.names(name):
            raise InputError("no such file", file=place, expected=f"a {' or '.join(endings)} file, or a folder of them")
    storage = open_storage(_joined(root, parts[:fixed]))
    found = [""]
    for part in parts[fixed:]:
        found = [name for name in _inside(storage, found) if fnmatch.fnmatchcase(name.rpartition("/")[2], part)]
    for _ in range(3):
        files = [name for name in found if name.endswith(tuple(endings))]
        if files:
            return storage, sorted(files, key=natural_key)
        found = _inside(storage, found)
    return storage, []


def own_shards(storage: Storage, names: Sequence[str]) -> list[str]:
    """Of shards that were found, where `index.json` of a run lies beside them those alone that are called like a run's
    own: a copy that a file manager or a synchronised folder left there would be read twice."""
    folders = {name: name.rpartition("/")[0] for name in names}
    of_run = {f: storage.size(f"{f}/index.json" if f else "index.json") is not None for f in set(folders.values())}
    own = [name for name in names if not of_run[folders[name]] or is_shard(name.rpartition("/")[2])]
    return own or list(names)


def _inside(storage: Storage, folders: Iterable[str]) -> list[str]:
    """What lies in these folders, hidden files aside."""
    names = [(folder, name) for folder in folders for name in storage.names(folder) if not name.startswith(".")]
    return [f"{folder}/{name}" if folder else name for folder, name in names]


def _split(place: str) -> tuple[str, list[str]]:
    """Where a listing may start at the highest (a bucket, a dataset, the current folder), and the parts below."""
    scheme, separator, path = place.rpartition("://")
    parts = path.rstrip("/").split("/")
    if not separator and not place.startswith("/"):
        return ".", [part for part in parts if part]
    root = 3 if f"{scheme}{separator}" == HUB else 1  # hf://datasets/ORG/NAME
    return scheme + separator + "/".join(parts[:root]), parts[root:]


def _joined(root: str, parts: Sequence[str]) -> str:
    return "/".join([root, *parts]).removeprefix("./") or "/"
