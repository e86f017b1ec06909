"""Records to Arrow and back. The Arrow schema of a record is derived from its dataclass, so there is one definition."""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")

_SCALARS: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def _unwrap_optional(annotation: Any) -> tuple[Any, bool]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        (inner,) = (arg for arg in typing.get_args(annotation) if arg is not type(None))
        return inner, True
    return annotation, False


def arrow_type(annotation: Any) -> pa.DataType:
    """Arrow type of a field annotation: scalar, record, `tuple[X, ...]`, or `X | None` of those. TypeError
    otherwise."""
    annotation, _ = _unwrap_optional(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if dataclasses.is_dataclass(annotation):
        return pa.struct(list(arrow_schema(annotation)))
    if typing.get_origin(annotation) is tuple:
        return pa.list_(arrow_type(typing.get_args(annotation)[0]))
    raise TypeError(f"{annotation} has no Arrow type")


@functools.cache
def arrow_schema(record: type) -> pa.Schema:
    """Arrow schema of a dataclass, fields in order, nullable where the annotation allows None."""
    hints = typing.get_type_hints(record)
    return pa.schema(
        [
            pa.field(f.name, arrow_type(hints[f.name]), nullable=_unwrap_optional(hints[f.name])[1])
            for f in dataclasses.fields(record)
        ]
    )


def _record_reader(record: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(record)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(record)}

    def read(value: dict[str, Any]) -> Any:
        # A column that is absent (not asked for, or younger than the file) takes the field's default.
        return record(**{name: reader(value[name]) for name, reader in readers.items() if name in value})

    return read


@functools.cache
def _reader(annotation: Any) -> Callable[[Any], Any]:
    annotation, optional = _unwrap_optional(annotation)
    if optional:
        inner = _reader(annotation)
        return lambda value: None if value is None else inner(value)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _record_reader(annotation)
    if typing.get_origin(annotation) is tuple:
        kinds = typing.get_args(annotation)
        if kinds[-1] is not Ellipsis:  # tuple[str, int]: configurations have them, records do not
            readers = [_reader(kind) for kind in kinds]
            return lambda value: tuple(read(v) for read, v in zip(readers, value, strict=True))
        item = _reader(kinds[0])
        return lambda value: tuple(item(v) for v in value)
    return lambda value: value


def record_from_dict(record: type[T], value: dict[str, Any]) -> T:
    """Rebuild a record (nested ones too) from plain dicts and lists, as Arrow and JSON give them."""
    return _reader(record)(value)


def to_table(record: type[T], rows: Iterable[T]) -> pa.Table:
    """Rows as an Arrow table with the record's schema."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=arrow_schema(record))  # type: ignore[call-overload]


def from_table(record: type[T], table: pa.Table) -> list[T]:
    """Rows of an Arrow table as records. An absent column takes the field's default; TypeError if it has none."""
    read = _reader(record)
    return [read(row) for row in table.to_pylist()]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_rows(rows: Sequence[Any]) -> str:
    """SHA-256 of records without their images (those are covered by their own `image_sha256`). Numbers count as what
    their field holds, so rows have the same hash before they are written and after they are read."""
    return hash_plain([_writer(type(row))(row) for row in rows])


def hash_plain(rows: Sequence[Mapping[str, Any]]) -> str:
    """`hash_rows` of rows as Arrow gives them: dicts of those columns that the table has.

    What is absent (None, empty, a counter of a `cost` at zero) is left out, so a field that a later version adds does
    not change the hash of rows that were written before.
    """

    def plain(value: Any, counters: bool = False) -> Any:
        if isinstance(value, Mapping):
            kept = {name: plain(item, name == "cost") for name, item in value.items() if name != "image"}
            return {n: v for n, v in kept.items() if v not in (None, [], {}) and not (counters and v == 0)}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value

    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(plain(row)).encode())
        digest.update(b"\n")
    return digest.hexdigest()


@functools.cache
def _writer(annotation: Any) -> Callable[[Any], Any]:
    """The way back from `_reader`: records to dicts, tuples to lists, numbers to their field's type."""
    annotation, optional = _unwrap_optional(annotation)
    if optional:
        inner = _writer(annotation)
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        writers = {f.name: _writer(hints[f.name]) for f in dataclasses.fields(annotation)}
        return lambda value: {name: write(getattr(value, name)) for name, write in writers.items()}
    if typing.get_origin(annotation) is tuple:
        item = _writer(typing.get_args(annotation)[0])
        return lambda value: [item(v) for v in value]
    return annotation if annotation in (int, float) else lambda value: value
