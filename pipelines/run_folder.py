"""The run folder: what was asked, the numbered prompts, blocks, barriers, shards, quarantine. One class, plain files.

    run.json  prompts.parquet  stages/<stage>/<key>/<unit // 1000>/<unit:06d>.parquet  barriers/  shards/  quarantine/
    stats/  logs/  report/

A unit is a slice of consecutive prompts of one subset. Which units there are follows from the segments in `run.json`.
"""

import functools
import hashlib
import io
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run_names import FOLDER_UNITS as FOLDER_UNITS
from pipelines.run_names import block_path, is_key, is_stage, is_statistics, quarantine_path, row_of, unit_of
from schemas.arrow import arrow_schema, from_table, to_table
from schemas.blocks import BlockFooter, attach_images, decode_block, decode_images, encode_block, read_footer
from schemas.checked_json import checked_record, decode_checked, encode_checked, parse_object
from schemas.configuration import content_key
from schemas.errors import CorruptDataError, ForeignRunError, WorkFailedError
from schemas.open_storage import open_storage
from schemas.records import PromptRow
from schemas.shards import ShardSidecar, sidecar_name
from schemas.storage import Storage

FORMAT = 3
"""Of `run.json`. 1: models were written into the configuration without a kind. 2: neither it nor barriers carried a
digest."""
_PROMPTS_FORMAT = 1
_MAX_PROMPTS = 100_000_000
_PROMPTS_ROW_GROUP = 1024
_LISTINGS_AT_ONCE = 16
_PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


@dataclass(frozen=True)
class Segment:
    """Consecutive units of one subset. The last unit may hold fewer prompts than the others."""

    subset: str
    first_unit: int
    first_prompt: int
    num_prompts: int


@dataclass(frozen=True)
class RunInfo:
    """`run.json`. job: "dataset", "search" or "harvest". config: the job's, as plain data. digests: of every model that
    it names, by name. prompts_sha256: of `prompts.parquet`; while prompts are appended, of the files before and after.
    """

    format: int
    preset: str
    config: dict[str, Any]
    seed: int
    unit_size: int
    root_key: str
    segments: tuple[Segment, ...]
    digests: dict[str, str]
    intake: dict[str, Any]
    code_commit: str
    created_at: str
    job: str = "dataset"
    prompts_sha256: tuple[str, ...] = ()


def root_key(seed: int, unit_size: int, num_threads: int) -> str:
    """Key of the prompts, from which every stage's key descends. The prompts themselves are checked by hash, by
    unit."""
    return content_key("prompts", _PROMPTS_FORMAT, seed, unit_size, num_threads)


def encode_prompts(rows: Iterable[PromptRow]) -> bytes:
    """`prompts.parquet`: rows stream into it, a row group at a time."""
    buffer, left = io.BytesIO(), iter(rows)
    with pq.ParquetWriter(buffer, arrow_schema(PromptRow), **_PARQUET) as writer:
        while group := list(itertools.islice(left, _PROMPTS_ROW_GROUP)):
            writer.write_table(to_table(PromptRow, group), row_group_size=_PROMPTS_ROW_GROUP)
    return buffer.getvalue()


class RunFolder:
    """An open run."""

    def __init__(self, storage: Storage, info: RunInfo) -> None:
        self.storage, self.info = storage, info
        self._prompts: pq.ParquetFile | None = None
        # Units in threads ask at once, and Arrow's reader, used by two threads, reads wrong or ends the process.
        self._reading_prompts = threading.Lock()

    def __reduce__(self) -> tuple[type["RunFolder"], tuple[Storage, RunInfo]]:
        """Workers get the place and what was asked, and open files themselves."""
        return RunFolder, (self.storage, self.info)

    @classmethod
    def create(
        cls,
        uri: str | Storage,
        info: RunInfo,
        prompts: "bytes | Sequence[PromptRow]",
        fill: "Callable[[RunFolder], None]" = lambda folder: None,
    ) -> "RunFolder":
        """Write prompts (rows, or what `encode_prompts` made of them), what `fill` puts there, then `run.json`: a
        folder without `run.json` is no run, and creating can be repeated."""
        storage = open_storage(uri) if isinstance(uri, str) else uri
        data = prompts if isinstance(prompts, bytes) else encode_prompts(prompts)
        folder = cls(storage, replace(info, prompts_sha256=(hashlib.sha256(data).hexdigest(),)))
        storage.commit("prompts.parquet", data)
        fill(folder)
        return folder.with_info(folder.info)

    def with_info(self, info: RunInfo) -> "RunFolder":
        """The same run with another `run.json`."""
        self.storage.commit("run.json", encode_checked(asdict(info)))
        return RunFolder(self.storage, info)

    @classmethod
    def open(cls, uri: str | Storage) -> "RunFolder":
        """ForeignRunError when the folder is no run, one of another format, or its `run.json` is not as it was
        written."""
        storage = open_storage(uri) if isinstance(uri, str) else uri
        uri = storage.uri
        try:
            return cls(storage, _read_info(storage.read("run.json"), f"{uri}/run.json"))
        except FileNotFoundError:
            half = storage.names("stages") and ", or is half a fork that the same `run --fork` makes whole"
            raise ForeignRunError(
                f"{uri}: no run here (it has no run.json{half or ''}); `run --run {uri}` or "
                f"`search --run {uri}` starts one"
            ) from None

    @classmethod
    def exists(cls, uri: str) -> bool:
        """True when there is a run at this place."""
        return open_storage(uri).size("run.json") is not None

    # Units and prompts

    @property
    def num_units(self) -> int:
        """Units of all subsets together."""
        return sum(self._segment_units(segment) for segment in self.info.segments)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Subsets in the order in which they were first asked for."""
        return tuple(dict.fromkeys(segment.subset for segment in self.info.segments))

    def _segment_units(self, segment: Segment) -> int:
        return -(-segment.num_prompts // self.info.unit_size)

    def units(self, subset: str | None = None) -> list[int]:
        """Unit numbers, of one subset or of all."""
        return [
            unit
            for segment in self.info.segments
            if subset is None or segment.subset == subset
            for unit in range(segment.first_unit, segment.first_unit + self._segment_units(segment))
        ]

    def num_prompts(self, subset: str) -> int:
        """Prompts of a subset."""
        return sum(segment.num_prompts for segment in self.info.segments if segment.subset == subset)

    def segment_of(self, unit: int) -> Segment:
        """The segment a unit lies in. KeyError for a unit that the run does not have."""
        for segment in self.info.segments:
            if segment.first_unit <= unit < segment.first_unit + self._segment_units(segment):
                return segment
        raise KeyError(f"unit {unit}: the run has units 0 to {self.num_units - 1}")

    def prompts(self, unit: int) -> list[PromptRow]:
        """The rows a unit starts from."""
        segment = self.segment_of(unit)
        start = segment.first_prompt + (unit - segment.first_unit) * self.info.unit_size
        stop = min(start + self.info.unit_size, segment.first_prompt + segment.num_prompts)
        first, last = start // _PROMPTS_ROW_GROUP, (stop - 1) // _PROMPTS_ROW_GROUP
        with self._reading_prompts:
            rows = [row for group in range(first, last + 1) for row in self._prompt_group(group)]
        offset = first * _PROMPTS_ROW_GROUP
        return rows[start - offset : stop - offset]

    @functools.lru_cache(maxsize=4)  # noqa: B019 - one folder lives as long as its process
    def _prompt_group(self, group: int) -> list[PromptRow]:
        try:
            if self._prompts is None:
                data = self.storage.read("prompts.parquet")
                known = self.info.prompts_sha256
                if known and hashlib.sha256(data).hexdigest() not in known:
                    raise ValueError("its bytes are not those that the run was started with")
                self._prompts = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
            return from_table(PromptRow, self._prompts.read_row_group(group, use_threads=False))
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
            said = " ".join(str(error).split())  # Arrow's messages may have several lines
            raise WorkFailedError(
                f"{self.storage.uri}/prompts.parquet does not read: {said}\n"
                f"  bring it back from a copy, or start the run again in a new folder"
            ) from error

    def all_prompts(self) -> Iterator[PromptRow]:
        """Every prompt of the run, streamed."""
        for unit in self.units():
            yield from self.prompts(unit)

    # Blocks

    block_path = staticmethod(block_path)

    def committed_units(self, stage: str, key: str) -> set[int]:
        """Units whose block has its final name. A listing, no file is opened."""
        base = f"stages/{stage}/{key}"
        folders = self.storage.names(base)
        # An object store takes 0.1 s for a listing, and answers many at once.
        with ThreadPoolExecutor(_LISTINGS_AT_ONCE) as pool:
            listed = pool.map(self.storage.names, [f"{base}/{folder}" for folder in folders])
            found = {unit_of(folder, name) for folder, names in zip(folders, listed, strict=True) for name in names}
        return {unit for unit in found if unit is not None}

    def write_block(self, footer: BlockFooter, rows: Sequence[PromptRow], *, with_images: bool) -> None:
        """Commit a block."""
        data = encode_block(footer, rows, with_images=with_images)
        self.storage.commit(self.block_path(footer.stage, footer.key, footer.unit), data)

    def read_block(self, stage: str, key: str, unit: int) -> tuple[BlockFooter, list[PromptRow]]:
        """Footer and rows without images. FileNotFoundError; CorruptDataError when it is not this unit's whole
        block."""
        path = self.block_path(stage, key, unit)
        with self.storage.open(path) as file:
            footer, rows = decode_block(file, path)
        if (footer.stage, footer.key, footer.unit) != (stage, key, unit):
            raise CorruptDataError(f"{path}: its footer says {footer.stage}/{footer.key} unit {footer.unit}")
        return footer, rows

    def read_footer(self, stage: str, key: str, unit: int) -> BlockFooter:
        """FileNotFoundError; CorruptDataError."""
        path = self.block_path(stage, key, unit)
        with self.storage.open(path) as file:
            return read_footer(file, path)

    def with_images(self, rows: Sequence[PromptRow], stage: str, key: str, unit: int) -> list[PromptRow]:
        """Rows with the images that the block of an image-making stage holds."""
        path = self.block_path(stage, key, unit)
        with self.storage.open(path) as file:
            return attach_images(rows, decode_images(file, path))

    def delete_block(self, stage: str, key: str, unit: int) -> None:
        """Remove a block, so that it is made again."""
        self.storage.delete(self.block_path(stage, key, unit))

    # Barriers, shards, quarantine

    def write_json(self, path: str, value: Any) -> None:
        """Commit a JSON file."""
        self.storage.commit(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())

    def read_checked(self, path: str) -> dict[str, Any]:
        """An object that carries its digest. FileNotFoundError; CorruptDataError when it is not as it was written."""
        return decode_checked(self.storage.read(path), f"{self.storage.uri}/{path}")

    def write_checked(self, path: str, value: Mapping[str, Any]) -> None:
        """Commit an object with its digest."""
        self.storage.commit(path, encode_checked(value))

    def barrier(self, path: str) -> dict[str, Any] | None:
        """What a barrier found. None when it is not settled, or is not as it was written: it is then settled again."""
        try:
            return self.read_checked(path)
        except (FileNotFoundError, CorruptDataError):
            return None

    def sidecar(self, index: int) -> ShardSidecar | None:
        """What is known of a shard, None while it is not packed. An unreadable sidecar counts as missing."""
        path = f"shards/{sidecar_name(index)}"
        try:
            return checked_record(ShardSidecar, parse_object(self.storage.read(path), path), path)
        except (FileNotFoundError, CorruptDataError):
            return None

    def statistics(self) -> Iterator[tuple[str, list[dict[str, Any]] | None]]:
        """(path, entries) of every file below `stats/`; None for one that is not as it was written."""
        for name in self.storage.names("stats"):
            if is_statistics(name):
                try:
                    yield f"stats/{name}", self.read_checked(f"stats/{name}")["entries"]
                except (FileNotFoundError, CorruptDataError, KeyError):
                    yield f"stats/{name}", None

    def quarantine_entry(self, stage: str, unit: int, row: int) -> dict[str, Any] | None:
        """Of a quarantined row its stage, key, unit, row, prompt_id, error and traceback. None when there is no entry,
        or it is not as it was written."""
        try:
            entry = self.read_checked(quarantine_path(stage, unit, row))
        except (FileNotFoundError, CorruptDataError):
            return None
        return entry | {"stage": stage, "unit": unit, "row": row}

    def quarantine_entries(self) -> list[tuple[str, int, int]]:
        """Stage, unit and row of every quarantine entry, by their names."""
        return [
            (stage, *place)
            for stage in self.storage.names("quarantine")
            if is_stage(stage)
            for name in self.storage.names(f"quarantine/{stage}")
            if (place := row_of(name)) is not None
        ]

    def quarantined(self) -> list[dict[str, Any]]:
        """Every quarantine entry that reads. (Which rows are in quarantine, blocks say.)"""
        return [entry for at in self.quarantine_entries() if (entry := self.quarantine_entry(*at)) is not None]

    def drop_stale_quarantine(self) -> None:
        """Remove entries whose block was never committed: their rows are done again anyway."""
        for entry in self.quarantined():
            stage, key, unit = entry["stage"], str(entry.get("key")), entry["unit"]
            if is_key(key) and self.storage.size(self.block_path(stage, key, unit)) is None:
                self.storage.delete(quarantine_path(stage, unit, entry["row"]))


def _read_info(data: bytes, where: str) -> RunInfo:
    """ForeignRunError says what to do."""
    try:
        said = parse_object(data, where).get("format")
        if type(said) is not int or said < 1:
            raise ForeignRunError(f"{where}: not a run of format {FORMAT} (its format is {said!r})")
        if said < FORMAT:
            raise ForeignRunError(
                f"{where}: not a run of format {FORMAT}; an older version made it (format {said}): its shards still "
                "train, to go on take that version"
            )
        value = decode_checked(data, where)
        if said > FORMAT:
            raise ForeignRunError(
                f"{where}: not a run of format {FORMAT}; a newer version made it (format {said}): take that version"
            )
        info = checked_record(RunInfo, value, where)
    except CorruptDataError as error:
        raise ForeignRunError(
            f"{error}\n  bring it back from a copy, as `run` wrote it: it is not to be edited. For other settings "
            "start another run; `run --fork` keeps what is still valid"
        ) from error
    _check_segments(info, where)
    return info


def _check_segments(info: RunInfo, where: str) -> None:
    """ForeignRunError unless segments follow one another, as `lay_out` numbers them."""
    next_unit = next_prompt = 0
    for segment in info.segments:
        follows = (segment.first_unit, segment.first_prompt) == (next_unit, next_prompt)
        if info.unit_size < 1 or segment.num_prompts < 1 or not follows:
            raise ForeignRunError(f"{where}: its segments do not follow one another; bring it back from a copy")
        next_unit += -(-segment.num_prompts // info.unit_size)
        next_prompt += segment.num_prompts
    if next_prompt > _MAX_PROMPTS:
        raise ForeignRunError(f"{where}: {next_prompt} prompts; bring it back from a copy")
