"""Pairs of a long and a short prompt: from a table of a user's, or from the length subset of a run's shards.

Pairs are small: all of them are in memory. Sample n of a training is a pure function of (pairs, seed, n), as it is of
triplets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from schemas.absent import is_absent
from schemas.checked_json import parse_object
from schemas.errors import CorruptDataError, InputError
from schemas.find_files import find_files, own_shards
from schemas.storage import Storage
from schemas.tar_members import tar_samples
from trainers.data_contents import digests_of_data

TABLES = (".jsonl", ".parquet")
_EXPECTED = "a .jsonl or .parquet file, a folder or glob of them, or a run with a length subset"


@dataclass(frozen=True)
class TextPair:
    """prompt: the long one."""

    prompt: str
    short: str


def read_text_pairs(data: str, long: str, short: str) -> list[TextPair]:
    """Pairs of tables, by the names of two fields, in natural order of the files and as they lie; or of a run's shards:
    the triplets of the length subset whose `meta.json` says what their prompt was condensed to, each prompt once.
    InputError (file, line, field)."""
    if not data:
        raise InputError("no data", field="--data", expected=_EXPECTED)
    pairs: dict[TextPair, None] = {}
    storage, names = _files(data)
    for name in names:
        where = f"{storage.uri}/{name}"
        with storage.open(name) as file:
            if name.endswith(".tar"):
                found = _condensed(file, where)
            else:
                rows = _parquet_rows(file, where, long, short) if name.endswith(".parquet") else _json_rows(file, where)
                found = (_pair(row, line, where, long, short) for line, row in rows)
            pairs |= dict.fromkeys(found)
    if not pairs:
        raise InputError("no text pairs there", file=data, field="--data", expected=_EXPECTED)
    return list(pairs)


def contents_of(data: str, cache: Path | None = None) -> dict[str, str]:
    """Digest of each file that `read_text_pairs` reads, by its name. cache: a folder that keeps them."""
    storage, names = _files(data)
    return dict(zip(names, digests_of_data(storage, names, cache), strict=True))


def _files(data: str) -> tuple[Storage, list[str]]:
    for place, endings in ((f"{data.rstrip('/')}/shards", (".tar",)), (data, TABLES), (data, (".tar",))):
        storage, names = find_files(place, endings)
        if names:
            return storage, own_shards(storage, names)
    raise InputError("no text pairs there", file=data, field="--data", expected=_EXPECTED)


def _pair(row: Any, line: int, where: str, long: str, short: str) -> TextPair:
    texts = []
    for name in (long, short):
        text = row.get(name) if isinstance(row, dict) else None
        if not isinstance(text, str) or is_absent(text):
            there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(f"no text {name!r} among {there}", file=where, line=line, field="--long, --short")
        texts.append(text.strip())
    return TextPair(*texts)


def _json_rows(file: BinaryIO, where: str) -> Iterator[tuple[int, Any]]:
    for line, data in enumerate(file, 1):
        if data.strip():
            try:
                yield line, json.loads(data)
            except (ValueError, RecursionError) as error:
                raise InputError(f"no JSON: {error}", file=where, line=line) from None


def _parquet_rows(file: BinaryIO, where: str, *columns: str) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        names = parquet.schema_arrow.names
        if missing := [name for name in columns if names.count(name) != 1]:
            problem = f"not one column {missing[0]!r} among {', '.join(names)}"
            raise InputError(problem, file=where, field="--long, --short")
        for batch in parquet.iter_batches(256, columns=[*dict.fromkeys(columns)], use_threads=False):
            for row in batch.to_pylist():
                line += 1
                yield line, row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"not readable as Parquet: {error}", file=where, line=line or None) from None


def _condensed(file: BinaryIO, where: str) -> Iterator[TextPair]:
    """Of a shard's triplets; those of other subsets were condensed to nothing."""
    try:
        for members in tar_samples(file, where):
            by_suffix = {member.suffix: member for member in members}
            if not {"prompt.txt", "meta.json"} <= by_suffix.keys():
                continue
            prompt, meta = (by_suffix[name].read(file, where) for name in ("prompt.txt", "meta.json"))
            short = parse_object(meta, f"{where}: member {by_suffix['meta.json'].name!r}").get("condensed")
            if isinstance(short, str) and not is_absent(short):
                yield TextPair(prompt.decode(), short)
    except (CorruptDataError, ValueError) as error:
        raise InputError(f"not readable as a shard: {error}", file=where) from None


class TextPairs:
    """See `trainers.loop.SampleSource` and `SampleOrder`: every pair comes once before one comes again."""

    subsets: tuple[str, ...] = ("length",)
    num_broken = 0

    def __init__(self, pairs: Sequence[TextPair], seed: int, contents: Mapping[str, str] | None = None) -> None:
        """contents: digests of the pairs' files, by name."""
        self._pairs, self._seed, self.contents = pairs, seed, dict(contents or {})
        self._epoch: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def num_pairs(self) -> int:
        """Pairs that are learnt from."""
        return len(self._pairs)

    def __getitem__(self, n: int) -> TextPair:
        epoch, place = divmod(n, len(self._pairs))
        if epoch != self._epoch[0]:
            order = np.random.default_rng([self._seed, 63, epoch]).permutation(len(self._pairs))
            self._epoch = (epoch, order)
        return self._pairs[self._epoch[1][place]]

    def batches(self, first: int, stop: int, batch_size: int, rank: int, world_size: int) -> Iterator[list[TextPair]]:
        """One rank's pairs of [first, stop), a step of `batch_size` (of all ranks) after the other."""
        for start in range(first, stop, batch_size):
            yield [self[n] for n in range(start + rank, start + batch_size, world_size)]


def hold_out_pairs(pairs: Sequence[TextPair], share: float, seed: int) -> tuple[list[TextPair], list[TextPair]]:
    """(training, evaluation), `share` of the pairs in the latter: with a share above 0, one at least of several."""
    order = np.random.default_rng([seed, 64]).permutation(len(pairs))
    count = min(len(pairs) - 1, max(1, round(share * len(pairs)))) if share > 0 else 0
    held = set(order[:count].tolist())
    return [p for i, p in enumerate(pairs) if i not in held], [p for i, p in enumerate(pairs) if i in held]
