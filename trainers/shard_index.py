"""Where every sample of a set of shards lies, so that a trainer can read any of them in any order.

A shard is scanned once, header by header; what was found is kept in a cache folder under a name that depends on the
shards' names and sizes. Published GenRef tars (no `meta.json`, no index) and ours are read alike.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from schemas.errors import CorruptDataError, InputError
from schemas.records import Subset
from schemas.shards import ShardSample, read_samples
from schemas.storage import Storage, open_storage

SUBSETS = tuple(subset.value for subset in Subset)
_UNKNOWN = len(SUBSETS)
OPEN_SHARDS = 16


@dataclass(frozen=True)
class ShardIndex:
    """Samples of all shards, in the order in which they lie.

    shards: names below `uri`. For each sample its shard's number, the byte range of its members (whole tar records) and
    the number of its subset in `SUBSETS`.
    """

    uri: str
    shards: tuple[str, ...]
    shard: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    subset: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    def of_subset(self, subset: str) -> np.ndarray:
        """Numbers of its samples, int64."""
        return np.flatnonzero(self.subset == SUBSETS.index(subset))

    def name(self, number: int) -> str:
        """Where a sample lies, for messages."""
        return f"{self.uri}/{self.shards[self.shard[number]]} at byte {self.start[number]}"


def open_index(uri: str, cache: Path | None = None) -> ShardIndex:
    """Index of every `.tar` in a folder (a run's `shards/` if it has one) or of one tar. InputError for none."""
    storage, names = _tars(uri)
    sizes = [storage.size(name) or 0 for name in names]
    key = hashlib.sha256(repr([storage.uri, list(zip(names, sizes, strict=True))]).encode()).hexdigest()[:16]
    cached = None if cache is None else cache / f"shard_index_{key}.npz"
    if cached is not None and cached.exists():
        with np.load(cached) as arrays:
            return ShardIndex(storage.uri, tuple(names), **arrays)
    found = [_scan(storage, name) for name in names]
    numbers = [np.full(len(part), i, np.int32) for i, part in enumerate(found)]
    columns = np.array([row for part in found for row in part], np.int64).reshape(-1, 3)
    index = ShardIndex(
        storage.uri,
        tuple(names),
        np.concatenate([np.zeros(0, np.int32), *numbers]),
        columns[:, 0],
        columns[:, 1],
        columns[:, 2].astype(np.int8),
    )
    if not len(index):
        raise InputError("its shards hold no sample", file=uri, expected="at least one triplet")
    if cached is not None:
        _write(cached, index)
    return index


def _tars(uri: str) -> tuple[Storage, list[str]]:
    if uri.endswith(".tar"):
        folder, _, name = uri.rpartition("/")
        storage = open_storage(folder or ".")
        if storage.size(name) is None:
            raise InputError("no such file", file=uri, expected="a shard, or a folder of shards")
        return storage, [name]
    for folder in (f"{uri.rstrip('/')}/shards", uri):
        storage = open_storage(folder)
        names = [name for name in storage.names("") if name.endswith(".tar")]
        if names:
            return storage, names
    raise InputError("no .tar file there", file=uri, expected="a run folder, or a folder of WebDataset shards")


def _scan(storage: Storage, name: str) -> list[tuple[int, int, int]]:
    """(first byte, byte after the last, subset) of every sample. CorruptDataError for no tar."""
    samples: list[tuple[int, int, int]] = []
    key, start, stop, subset = "", 0, 0, _UNKNOWN
    try:
        with storage.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                its_key, _, suffix = info.name.partition(".")
                if its_key != key:
                    if key:
                        samples.append((start, stop, subset))
                    key, start, subset = its_key, info.offset, _UNKNOWN
                if suffix == "subset.txt":
                    file.seek(info.offset_data)
                    said = file.read(min(info.size, 64)).decode(errors="replace").strip()
                    subset = SUBSETS.index(said) if said in SUBSETS else _UNKNOWN
                stop = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except tarfile.TarError as error:
        raise CorruptDataError(f"{storage.uri}/{name}: no whole tar file ({error})") from error
    if key:
        samples.append((start, stop, subset))
    return samples


def _write(path: Path, index: ShardIndex) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        np.savez(file, shard=index.shard, start=index.start, stop=index.stop, subset=index.subset)
    os.replace(temporary, path)


def read_shard(index: ShardIndex, shard: int) -> Iterator[ShardSample | CorruptDataError]:
    """The samples of one shard in the order of the index, the file opened once; an error for one that does not read."""
    storage = open_storage(index.uri)
    with storage.open(index.shards[shard]) as file:
        for number in np.flatnonzero(index.shard == shard):
            try:
                yield _read(file, index, int(number))
            except CorruptDataError as error:
                yield error


class SampleReader:
    """Reads samples by their byte ranges, in any order. The last few shards stay open: on an object store opening one
    is a request of its own."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], BinaryIO] = OrderedDict()
        self._process = os.getpid()

    def read(self, index: ShardIndex, number: int) -> ShardSample:
        """The sample of that number. CorruptDataError when it is no whole triplet."""
        if self._process != os.getpid():  # files that a parent process opened share their position with it
            self._open, self._process = OrderedDict(), os.getpid()
        key = index.uri, index.shards[index.shard[number]]
        if key not in self._open:
            self._open[key] = open_storage(index.uri).open(key[1])
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return _read(self._open[key], index, number)


def _read(file: BinaryIO, index: ShardIndex, number: int) -> ShardSample:
    file.seek(int(index.start[number]))
    data = file.read(int(index.stop[number] - index.start[number]))
    samples = list(read_samples(data + bytes(2 * tarfile.BLOCKSIZE), index.name(number)))
    if len(samples) != 1:
        raise CorruptDataError(f"{index.name(number)}: {len(samples)} samples where one was")
    return samples[0]


def subset_counts(index: ShardIndex, subsets: Sequence[str] = SUBSETS) -> dict[str, int]:
    """Samples of each subset."""
    return {name: int((index.subset == SUBSETS.index(name)).sum()) for name in subsets}
