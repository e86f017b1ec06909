"""A block: the committed output of one stage for one unit, one Parquet file. Its footer says what it was made from."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import hash_plain, hash_rows, record_from_dict, to_table
from schemas.errors import CorruptDataError
from schemas.images import sha256
from schemas.records import Cost, PromptRow

_FOOTER_KEY = b"reflectionflow.block"
_IMAGE_COLUMN = "candidates.list.element.image"
_IMAGE_COLUMNS = ("candidates.list.element.index", "candidates.list.element.image_sha256", _IMAGE_COLUMN)
# What pyarrow, and the conversion of what it read, raise on broken bytes.
_READ_ERRORS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError)


@dataclass(frozen=True)
class BlockFooter:
    """What a block says of itself without its rows being read.

    input_hash: `rows_hash` of the block it was made from (of the prompts, for a first stage). Counts are of rows, but
    num_pairs, which counts pairs not rejected.
    """

    stage: str
    key: str
    unit: int
    input_hash: str
    rows_hash: str
    num_rows: int
    num_rejected: int
    num_quarantined: int
    num_pairs: int
    cost: Cost


def footer_of(stage: str, key: str, unit: int, input_hash: str, rows: Sequence[PromptRow]) -> BlockFooter:
    """The footer that rows get."""
    return _footer_with(stage, key, unit, input_hash, hash_rows(rows), rows)


def _footer_with(
    stage: str, key: str, unit: int, input_hash: str, rows_hash: str, rows: Sequence[PromptRow]
) -> BlockFooter:
    return BlockFooter(
        stage=stage,
        key=key,
        unit=unit,
        input_hash=input_hash,
        rows_hash=rows_hash,
        num_rows=len(rows),
        num_rejected=sum(row.rejection is not None for row in rows),
        num_quarantined=sum(row.quarantine is not None for row in rows),
        num_pairs=sum(len(row.shipped_pairs) for row in rows),
        cost=sum((row.cost for row in rows), Cost()),
    )


def encode_block(footer: BlockFooter, rows: Sequence[PromptRow], *, with_images: bool) -> bytes:
    """Parquet bytes. Images are left out unless `with_images`: they live in the block of the stage that made them."""
    table = to_table(PromptRow, rows if with_images else [_without_images(row) for row in rows])
    metadata = {_FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_footer(data: bytes | BinaryIO, where: str) -> BlockFooter:
    """Raises CorruptDataError when the bytes are no whole block."""
    return _footer(_open(data, where), where)


def decode_block(data: bytes | BinaryIO, where: str) -> tuple[BlockFooter, list[PromptRow]]:
    """Footer and rows, without images. Raises CorruptDataError when the bytes are no whole block, or when the rows are
    not those its footer speaks of: page checksums do not cover the names and numbers in a Parquet footer."""
    file = _open(data, where)
    footer = _footer(file, where)
    try:
        columns = [path for path in _leaf_paths(file) if path != _IMAGE_COLUMN]
        plain = file.read(columns=columns, use_threads=False).to_pylist()
        rows = [record_from_dict(PromptRow, row) for row in plain]
        # A flipped bit in the schema may have made times of numbers, which have no hash.
        found = _footer_with(footer.stage, footer.key, footer.unit, footer.input_hash, hash_plain(plain), rows)
    except (*_READ_ERRORS, AttributeError) as error:
        raise CorruptDataError(f"{where}: block does not read ({error})") from error
    if len(rows) != footer.num_rows:
        raise CorruptDataError(f"{where}: {len(rows)} rows, its footer says {footer.num_rows}")
    if found != footer:
        raise CorruptDataError(f"{where}: its rows are not those that its footer counts and hashes")
    return footer, rows


def decode_images(data: bytes | BinaryIO, where: str) -> list[dict[int, bytes]]:
    """For each row, the images the block holds, by candidate index. CorruptDataError when one has other bytes than its
    `image_sha256` says."""
    images: list[dict[int, bytes]] = []
    try:
        rows = _open(data, where).read(columns=list(_IMAGE_COLUMNS), use_threads=False).to_pylist()
        for number, row in enumerate(rows):
            held = [candidate for candidate in row["candidates"] if candidate["image"] is not None]
            for candidate in held:
                if sha256(candidate["image"]) != candidate["image_sha256"]:
                    what = f"{where}: image of row {number} candidate {candidate['index']}"
                    raise CorruptDataError(f"{what} has other bytes than it was made with")
            images.append({candidate["index"]: candidate["image"] for candidate in held})
    except (*_READ_ERRORS, AttributeError) as error:
        raise CorruptDataError(f"{where}: block does not read ({error})") from error
    return images


def attach_images(rows: Sequence[PromptRow], images: Sequence[dict[int, bytes]]) -> list[PromptRow]:
    """Rows whose candidates carry the images found for them."""
    return [
        replace(row, candidates=tuple(replace(c, image=found.get(c.index, c.image)) for c in row.candidates))
        for row, found in zip(rows, images, strict=True)
    ]


def _without_images(row: PromptRow) -> PromptRow:
    return replace(row, candidates=tuple(replace(c, image=None) for c in row.candidates))


def _open(data: bytes | BinaryIO, where: str) -> pq.ParquetFile:
    try:
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        return pq.ParquetFile(source, page_checksum_verification=True)
    except _READ_ERRORS as error:
        raise CorruptDataError(f"{where}: no whole Parquet file ({error})") from error


def _footer(file: pq.ParquetFile, where: str) -> BlockFooter:
    try:
        metadata = file.schema_arrow.metadata or {}
        if _FOOTER_KEY not in metadata:
            raise CorruptDataError(f"{where}: a Parquet file, but no block of a run")
        return record_from_dict(BlockFooter, json.loads(metadata[_FOOTER_KEY]))
    except (*_READ_ERRORS, AttributeError) as error:
        raise CorruptDataError(f"{where}: its footer does not read ({error})") from error


def _leaf_paths(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(i).path for i in range(len(file.schema))]
