"""Editing triplets in Parquet: the columns without images, and the images of one row, with memory bounded by a few
images, or by one page of one column where a writer made pages of hundreds of megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prompts.edit_columns import CAPTION, IMAGE_COLUMNS, INSTRUCTIONS, SCORES, EditFile
from schemas.errors import InputError
from schemas.foreign_json import quote, safe_text

_BATCH_ROWS = 1024
_BATCH_BYTES = 2 * 2**20  # of one column's images that are taken out at once, about
_MAX_PAGE_BYTES = 64 * 2**20  # of pages that stay in memory from one row to the next
_WINDOW_BYTES = 64 * 2**20  # of images that are kept instead
_BUFFER_BYTES = 2**20


def parquet_rows(file: EditFile) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(row from 1, row from 0, values without images). InputError for no Parquet, and for columns of a wrong type."""
    import pyarrow as pa

    number = 0
    try:
        with _open(file) as parquet:
            schema = parquet.schema_arrow
            _check_columns(schema, file)
            columns = [name for name in (INSTRUCTIONS, CAPTION, *SCORES) if name in schema.names]
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield number, number - 1, values
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(f"not readable as Parquet: {safe_text(str(error))}", file=file.place) from None


class ParquetRows:
    """Rows of one file, images and all: quickest from one row to the next."""

    def __init__(self, file: EditFile) -> None:
        self._file = _open(file)
        _check_columns(self._file.schema_arrow, file)
        self._columns = {name: _Column(self._file, name) for name in (*IMAGE_COLUMNS, INSTRUCTIONS)}

    def row(self, position: int) -> dict[str, Any]:
        """IndexError for one that is not there."""
        group, row = 0, position
        while row >= (size := self._file.metadata.row_group(group).num_rows):
            row -= size
            group += 1
            if group == self._file.metadata.num_row_groups:
                raise IndexError(f"the file has {self._file.metadata.num_rows} rows")
        return {name: column.value(group, row) for name, column in self._columns.items()}


class _Column:
    """One column, a few values of it in memory.

    Arrow reads whole pages, and pyarrow writes up to 1024 rows into one, however large they are. Small pages stay where
    they are from one batch to the next; of large ones the values that follow are taken out, and the page is let go: it
    is read again when they are used up, and no two columns' pages are in memory at once.
    """

    def __init__(self, file: Any, name: str) -> None:
        self._file, self._name = file, name
        self._group, self._first, self._values = -1, 0, []
        self._batches: Iterator[Any] | None = None

    def value(self, group: int, row: int) -> Any:
        if group != self._group or not self._first <= row < self._first + len(self._values):
            self._read(group, row)
        return self._values[row - self._first]

    def _read(self, group: int, row: int) -> None:
        import pyarrow as pa

        next_row = self._first + len(self._values)
        if self._batches is None or group != self._group or row < next_row:
            self._batches, next_row = None, 0
        self._values, before = [], pa.total_allocated_bytes()
        batches = self._batches or self._file.iter_batches(
            self._rows_a_batch(group), row_groups=[group], columns=[self._name], use_threads=False
        )
        self._group, self._first, self._batches = group, next_row, None
        for batch in batches:
            if row >= self._first + len(batch):
                self._first += len(batch)
                continue
            self._values += batch.column(0).to_pylist()
            del batch
            if pa.total_allocated_bytes() - before <= _MAX_PAGE_BYTES:
                self._batches = batches
                return
            if sum(map(_num_bytes, self._values)) >= _WINDOW_BYTES:
                break
        del batches
        pa.default_memory_pool().release_unused()
        if not self._values:
            raise IndexError(f"row group {group} ends before its row {row}")

    def _rows_a_batch(self, group: int) -> int:
        """The same for all columns: one ParquetFile has one batch size, whoever is reading."""
        found = self._file.metadata.row_group(group)
        largest = max(found.column(i).total_uncompressed_size for i in range(found.num_columns))
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES * found.num_rows // max(1, largest)))


def _num_bytes(cell: Any) -> int:
    cell = cell.get("bytes") if isinstance(cell, dict) else cell
    return len(cell) if isinstance(cell, bytes | str | list) else 0


def _open(file: EditFile) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file.open(), pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _check_columns(schema: Any, file: EditFile) -> None:
    """InputError for columns that are not there, come twice, or hold what they cannot."""
    import pyarrow.types as of

    names = schema.names
    if missing := [name for name in (*IMAGE_COLUMNS, INSTRUCTIONS) if name not in names]:
        raise InputError(
            f"no column {', '.join(missing)}",
            file=file.place,
            field=missing[0],
            expected=f"{', '.join(IMAGE_COLUMNS)} and {INSTRUCTIONS}, as OmniEdit has them",
        )

    def is_text(kind: Any) -> bool:
        return of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind)

    def is_bytes(kind: Any) -> bool:
        plain = of.is_binary(kind) or of.is_large_binary(kind) or of.is_binary_view(kind)
        return plain or of.is_fixed_size_binary(kind)

    def is_list(kind: Any) -> bool:
        return of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind)

    def is_image(kind: Any) -> bool:
        named = of.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return is_bytes(_plain(kind.field("bytes").type if named else kind))

    def is_number(kind: Any) -> bool:
        return of.is_integer(kind) or of.is_floating(kind) or of.is_decimal(kind) or of.is_null(kind) or is_text(kind)

    def is_instruction(kind: Any) -> bool:
        of_texts = is_list(kind) and (is_text(_plain(kind.value_type)) or of.is_null(kind.value_type))
        return is_text(kind) or of_texts

    wanted = [(name, is_image, "bytes, or the hub's struct of bytes and path") for name in IMAGE_COLUMNS]
    wanted += [(INSTRUCTIONS, is_instruction, "a list of texts, or a text")]
    wanted += [(CAPTION, lambda kind: is_text(kind) or of.is_null(kind), "a text")]
    wanted += [(name, is_number, "a number") for name in SCORES]
    for name, fits, expected in wanted:
        if names.count(name) > 1:
            raise InputError("two columns of one name", file=file.place, field=name, expected="one")
        if name in names and not fits(kind := _plain(schema.field(name).type)):
            raise InputError(f"the column holds {quote(str(kind))}", file=file.place, field=name, expected=expected)


def _plain(kind: Any) -> Any:
    """A dictionary's values and an extension's storage are what counts."""
    import pyarrow as pa

    while isinstance(kind, pa.DictionaryType | pa.BaseExtensionType):
        kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind.storage_type
    return kind
