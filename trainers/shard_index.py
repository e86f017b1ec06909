"""Where every sample of a set of shards lies, so that a trainer can read any of them in any order.

A shard is scanned once, header by header; what was found is kept in a cache folder under a name that depends on the
shards' contents. Published GenRef tars (no `meta.json`, no index) and ours are read alike, and comparisons where
a trainer learns from them (`comparison_shards`). Of a shard that was cut short the whole samples are used, and it is
named; samples of no known subset are counted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from schemas.absent import is_absent
from schemas.atomic_file import replacing
from schemas.errors import CorruptDataError, InputError
from schemas.find_files import find_files, own_shards
from schemas.hub_storage import KNOWN_DATASETS, cached_dataset, how_to_fetch, looks_local
from schemas.open_storage import open_storage
from schemas.records import Subset
from schemas.shards import TEXT_MEMBERS, ShardSample, read_members, read_samples
from schemas.storage import Storage
from schemas.tar_members import END_MARK, MAX_MEMBER_BYTES, DamagedTarError, Member, split_member_name, tar_samples
from trainers.comparison_shards import ComparisonMembers, is_json, side_of, triplet_of
from trainers.data_contents import digests_of_data

log = logging.getLogger(__name__)

SUBSETS = tuple(subset.value for subset in Subset)
_UNKNOWN = len(SUBSETS)
OPEN_SHARDS = 16
_FORM = 3  # of how a tar is taken apart, and of what is kept of that
_MAX_LABEL_BYTES = 2**20
_MAX_SAMPLE_BYTES = 2 * MAX_MEMBER_BYTES


@dataclass(frozen=True)
class ShardIndex:
    """Samples of all shards, in the order in which they lie.

    shards: names below `uri`. For each sample its shard's number, the byte range of its members (whole tar records) and
    the number of its subset in `SUBSETS`. comparisons: how its samples are read where they are no triplets. digests: of
    each shard's contents; what is kept of a shard goes by them, and not by where it lies.
    """

    uri: str
    shards: tuple[str, ...]
    shard: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    subset: np.ndarray
    comparisons: ComparisonMembers | None = None
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.shard)

    def of_subset(self, subset: str) -> np.ndarray:
        """Numbers of its samples, int64."""
        return np.flatnonzero(self.subset == SUBSETS.index(subset))

    def where(self, kept: np.ndarray) -> ShardIndex:
        """Some of its samples. kept: bool (n,)."""
        columns = (column[kept] for column in (self.shard, self.start, self.stop, self.subset))
        return ShardIndex(self.uri, self.shards, *columns, comparisons=self.comparisons, digests=self.digests)

    def name(self, number: int) -> str:
        """Where a sample lies, for messages."""
        return f"{self.uri}/{self.shards[self.shard[number]]} at byte {self.start[number]}"


def open_index(uri: str, cache: Path | None = None, comparisons: ComparisonMembers | None = None) -> ShardIndex:
    """Index of the shards of a run, a folder, a glob, a dataset in the hub cache (by ORG/NAME), or of one tar.

    comparisons: how samples that are no triplets are read; None: they are refused. InputError for none, and for members
    that are neither.
    """
    storage, names = _tars(uri)
    comparisons = _kind_of(storage, names[0], comparisons)
    digests = digests_of_data(storage, names, cache)
    key = hashlib.sha256(repr([_FORM, digests, comparisons]).encode()).hexdigest()[:16]
    cached = None if cache is None else cache / f"shard_index_{key}.npz"
    kept = read_arrays(cached, ("shard", "start", "stop", "subset"))
    if kept is not None:
        return _named(ShardIndex(storage.uri, tuple(names), *kept, comparisons=comparisons, digests=digests))
    scans = [_scan(storage, name, comparisons) for name in names]
    numbers = [np.full(len(scan.samples), i, np.int32) for i, scan in enumerate(scans)]
    columns = np.array([row for scan in scans for row in scan.samples], np.int64).reshape(-1, 3)
    index = ShardIndex(
        storage.uri,
        tuple(names),
        np.concatenate([np.zeros(0, np.int32), *numbers]),
        columns[:, 0],
        columns[:, 1],
        columns[:, 2].astype(np.int8),
        comparisons,
        digests,
    )
    if not len(index):
        raise InputError("its shards hold no sample", file=uri, expected="at least one triplet")
    if cached is not None and all(scan.is_whole for scan in scans):  # a cut one is scanned, and named, again
        write_arrays(cached, shard=index.shard, start=index.start, stop=index.stop, subset=index.subset)
    return _named(index)


def _named(index: ShardIndex) -> ShardIndex:
    """The index, after a warning that counts its samples of no known subset, which are never drawn."""
    unknown = np.flatnonzero(index.subset == _UNKNOWN)
    if len(unknown) and index.comparisons is not None:
        said = "%d of %d comparisons name no better side in %r (left or right) and are never drawn; the first: %s"
        log.warning(said, len(unknown), len(index), index.comparisons.result, index.name(int(unknown[0])))
    elif len(unknown):
        log.warning(
            "%d of %d samples are of no known subset (subset.txt says none of %s) and are never drawn; the first: %s",
            len(unknown),
            len(index),
            ", ".join(SUBSETS),
            index.name(int(unknown[0])),
        )
    return index


def _tars(uri: str) -> tuple[Storage, list[str]]:
    """Where the shards are, and their names in natural order: the published ones' numbers are not padded."""
    snapshot = None if Path(uri).exists() else cached_dataset(uri)
    places = [str(snapshot)] if snapshot else [uri] if "*" in uri else [f"{uri.rstrip('/')}/shards", uri]
    for place in places:
        storage, names = find_files(place, (".tar",))
        if names:
            return storage, own_shards(storage, names)
    is_there = "://" in uri or "*" in uri or Path(uri).exists()
    is_hub_id = uri.count("/") == 1 and not is_there and (uri in KNOWN_DATASETS or not looks_local(uri))
    how = f"; for one of the hub {how_to_fetch(uri, '*_1.tar')}" if is_hub_id else ""
    raise InputError(
        "no .tar file there" if is_there else "no such folder",
        file=uri,
        expected=f"a run folder, or WebDataset shards{how}",
    )


@dataclass(frozen=True)
class _Scan:
    """samples: (first byte, byte after the last, subset) of each. is_whole: the tar has its end mark."""

    samples: list[tuple[int, int, int]]
    is_whole: bool


def _kind_of(storage: Storage, name: str, comparisons: ComparisonMembers | None) -> ComparisonMembers | None:
    """None for a shard of triplets; how it is read for one of comparisons. InputError, with the names that were found,
    where its first sample is neither."""
    where = f"{storage.uri}/{name}"
    with storage.open(name) as file:
        try:
            members = next(tar_samples(file, where), [])
        except DamagedTarError:
            return None  # the scan says it
        fields = [field for one in members if is_json(one.suffix) for field in _fields_in(_label(one, file))]
    names = [member.suffix for member in members]
    if not members or any(suffix.startswith(("good_image.", "bad_image.", "subset.")) for suffix in names):
        return None
    missing = [] if comparisons is None else comparisons.missing(names, fields)
    if comparisons is not None and not missing:
        return comparisons
    found = f"its first sample has the members {', '.join(names)}" + (
        f" (fields {', '.join(fields)})" if fields else ""
    )
    with storage.open(name) as file:
        _refuse_scattered(file, where)
    raise InputError(
        f"no triplets: {found}" + (f"; comparisons lack {', '.join(missing)}" if missing else ""),
        file=where,
        field="--comparisons.*" if missing else "--data",
        expected="good_image, bad_image, prompt.txt, reflection.txt and subset.txt"
        + (", or the names of the members in these flags" if missing else "; comparisons teach reflector and verifier"),
    )


def _label(member: Member, file: BinaryIO) -> bytes:
    """The bytes of a small member; none of one that does not read, which whoever reads the sample names."""
    try:
        return member.read(file, "", _MAX_LABEL_BYTES)
    except CorruptDataError:
        return b""


def _fields_in(data: bytes) -> list[str]:
    """Names in a JSON object; none where it is something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return []
    return [str(name) for name in found] if isinstance(found, dict) else []


def _scan(storage: Storage, name: str, comparisons: ComparisonMembers | None) -> _Scan:
    """What a shard holds; a warning names one that is not whole. CorruptDataError for no tar, and where the members of
    a sample lie apart."""
    samples: list[tuple[int, int, int]] = []
    is_whole: dict[str, bool] = {}
    where, damage = f"{storage.uri}/{name}", None
    with storage.open(name) as file:
        try:
            for members in tar_samples(file, where):
                key, whole = members[0].key, _has_all(members, comparisons)
                if key in is_whole and not (whole and is_whole[key]):
                    raise _scattered(where, key)
                is_whole[key] = whole
                samples.append((members[0].start, members[-1].stop, _subset_of(file, members, comparisons)))
        except DamagedTarError as error:
            damage = error
            if not samples:
                raise
        if damage is not None:
            samples = samples if _reads(file, samples[-1], where, comparisons) else samples[:-1]
            said = "%s: cut short or damaged (%s); its first %d samples are used, what follows is lost"
            log.warning(said, where, damage.problem, len(samples))
    return _Scan(samples, damage is None)


def _scattered(where: str, key: str) -> CorruptDataError:
    return CorruptDataError(
        f"{where}: the members of sample {key!r} do not lie beside each other, as WebDataset needs them: pack "
        "the shard again with its files sorted by name"
    )


def _refuse_scattered(file: BinaryIO, where: str) -> None:
    """CorruptDataError where a key comes back behind others."""
    keys: set[str] = set()
    with suppress(DamagedTarError):
        for members in tar_samples(file, where):
            if members[0].key in keys:
                raise _scattered(where, members[0].key)
            keys.add(members[0].key)


def _has_all(members: Sequence[Member], comparisons: ComparisonMembers | None) -> bool:
    """Whether a sample has, by their names, the members that it needs."""
    names = [member.suffix for member in members]
    if comparisons is not None:
        return comparisons.image_of(names) is not None and bool(comparisons.members_of_result(names))
    needed = ("good_image.", "bad_image.", *TEXT_MEMBERS)
    return all(any(name.startswith(start) for name in names) for start in needed)


def _subset_of(file: BinaryIO, members: Sequence[Member], comparisons: ComparisonMembers | None) -> int:
    """The number of a sample's subset; `_UNKNOWN` for a sample that teaches nothing."""
    by_suffix = {member.suffix: member for member in members}
    if comparisons is None:
        member = by_suffix.get("subset.txt")
        said = _label(member, file).decode(errors="replace").strip() if member else ""
        return SUBSETS.index(said) if said in SUBSETS else _UNKNOWN
    telling = comparisons.members_of_result(list(by_suffix))
    try:
        result = comparisons.text("result", {suffix: _label(by_suffix[suffix], file) for suffix in telling})
    except (CorruptDataError, ValueError):
        return _UNKNOWN
    return SUBSETS.index(comparisons.subset) if side_of(result) else _UNKNOWN


def _reads(file: BinaryIO, sample: tuple[int, int, int], where: str, comparisons: ComparisonMembers | None) -> bool:
    """False for the last sample of a cut shard, where the cut went through it."""
    try:
        return len(_samples_between(file, sample[0], sample[1], where, comparisons)) == 1
    except CorruptDataError:
        return False


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An `.npz` file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] - its stub takes names for `allow_pickle`


def read_arrays(path: Path | None, names: Sequence[str]) -> list[np.ndarray] | None:
    """The arrays of a file that `write_arrays` wrote, whose sums are right; None where there is none, or where it does
    not read, which is said: what it holds is made again."""
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception as error:  # damaged archives raise whatever comes: zlib's, zipfile's and NumPy's errors
        log.warning("%s does not read (%s) and is made again", path, error)
        return None


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
    start, stop = int(index.start[number]), int(index.stop[number])
    samples = _samples_between(file, start, stop, index.name(number), index.comparisons)
    if len(samples) != 1:
        raise CorruptDataError(f"{index.name(number)}: {len(samples)} samples where one was")
    if samples[0].cot is not None and not is_comparison(samples[0].cot):
        raise CorruptDataError(
            f"{index.name(number)}: sample {samples[0].key!r}: its cot.json is no comparison: analysis and instruction "
            "as texts, good_side and verdict as left or right"
        )
    if is_absent(samples[0].prompt):
        raise CorruptDataError(f"{index.name(number)}: sample {samples[0].key!r} has no prompt")
    return replace(samples[0], reflection="") if is_absent(samples[0].reflection) else samples[0]


def is_comparison(cot: Any) -> bool:
    """True for a `cot.json` as runs write it, which is what trainers take it for."""
    return (
        isinstance(cot, dict)
        and all(isinstance(cot.get(name), str) for name in ("analysis", "instruction"))
        and all(cot.get(name) in ("left", "right") for name in ("good_side", "verdict"))
    )


def _samples_between(
    file: BinaryIO, start: int, stop: int, where: str, comparisons: ComparisonMembers | None
) -> list[ShardSample]:
    """Samples whose members lie in a range of bytes. CorruptDataError."""
    if stop - start > _MAX_SAMPLE_BYTES:
        raise CorruptDataError(f"{where}: a sample of {stop - start:,} bytes; at most {_MAX_SAMPLE_BYTES:,} are read")
    file.seek(start)
    data = file.read(stop - start) + END_MARK
    if comparisons is None:
        return list(read_samples(data, where, in_folders=True))
    members: dict[str, dict[str, bytes]] = {}
    for name, body in read_members(data, where, in_folders=True):
        key, suffix = split_member_name(name)
        if suffix in members.setdefault(key, {}):
            raise CorruptDataError(f"{where}: member {name!r} comes twice")
        members[key][suffix] = body
    return [triplet_of(key, its, comparisons, where) for key, its in members.items()]


def subset_counts(index: ShardIndex, subsets: Sequence[str] = SUBSETS) -> dict[str, int]:
    """Samples of each subset."""
    return {name: int((index.subset == SUBSETS.index(name)).sum()) for name in subsets}
