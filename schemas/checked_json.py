"""JSON that carries its own digest, so that an edit or a flipped bit is noticed; and plain data as records, every name
and type looked at."""

import dataclasses
import enum
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from schemas.arrow import canonical_json, record_from_dict
from schemas.errors import CorruptDataError

T = TypeVar("T")
DIGEST = "sha256"
"""The key under which an object holds the SHA-256 of all that it holds besides, as canonical JSON."""
_JSON_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def encode_checked(value: Mapping[str, Any]) -> bytes:
    """An object with its digest, readable by people. value: must not have a key `sha256` of its own."""
    held = {DIGEST: _digest(value), **value}
    return (json.dumps(held, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def decode_checked(data: bytes, where: str) -> dict[str, Any]:
    """The object without its digest. CorruptDataError for what is no JSON object, has no digest or another one."""
    value = parse_object(data, where)
    said = value.pop(DIGEST, None)
    if said is None:
        raise CorruptDataError(f"{where}: carries no digest of itself")
    try:
        found = _digest(value)
    except (ValueError, RecursionError):  # halves of surrogate pairs
        found = ""
    if said != found:
        raise CorruptDataError(f"{where}: is not as it was written: its digest does not fit")
    return value


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. CorruptDataError for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{where}: is no JSON: {error}; expected: a JSON object") from error
    if not isinstance(value, dict):
        raise CorruptDataError(f"{where}: is JSON, but {_JSON_KINDS[type(value)]}; expected: a JSON object")
    return value


def checked_record(record: type[T], value: Any, where: str) -> T:
    """A record from plain data. CorruptDataError names the first field of another type, the first name that the record
    does not have, and the first field that is missing; fields with a default may be."""
    problem = _problem(record, value, "")
    if problem:
        raise CorruptDataError(f"{where}: {problem}")
    return record_from_dict(record, value)


def _digest(value: Mapping[str, Any]) -> str:
    # Through JSON and back: keys become texts and tuples lists, as whoever reads it finds them.
    return hashlib.sha256(canonical_json(json.loads(json.dumps(value))).encode()).hexdigest()


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _problem(annotation: Any, value: Any, field: str) -> str:
    """What is wrong with a value, "" for nothing. field: where it stands, as `config.generate.seed`."""
    if annotation is Any:
        return ""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        problems = [_problem(one, value, field) for one in typing.get_args(annotation) if one is not type(None)]
        return "" if value is None or not all(problems) else problems[0]
    if dataclasses.is_dataclass(annotation):
        return _record_problem(typing.cast(type, annotation), value, field)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "" if value in inner and type(value) in map(type, inner) else _unlike(field, value, " or ".join(inner))
    if origin in (tuple, list):
        return _items_problem(inner, value, field)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            return _unlike(field, value, "an object")
        return next(filter(None, (_problem(inner[1], one, _below(field, key)) for key, one in value.items())), "")
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        known = [str(one.value) for one in annotation]
        return "" if value in known else _unlike(field, value, " or ".join(known))
    fits = isinstance(value, int | float) if annotation is float else isinstance(value, annotation)
    fits = fits and isinstance(value, bool) == (annotation is bool)
    return "" if fits else _unlike(field, value, _WORDS.get(annotation, str(annotation)))


def _record_problem(record: type, value: Any, field: str) -> str:
    if not isinstance(value, dict):
        return _unlike(field, value, "an object")
    hints = _hints(record)
    fields = {one.name: one for one in dataclasses.fields(record)}
    for name in value:
        if name not in fields:
            return f"{_below(field, name)}: this version knows no such field"
    for name, one in fields.items():
        if name in value:
            if problem := _problem(hints[name], value[name], _below(field, name)):
                return problem
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            return f"{_below(field, name)}: missing"
    return ""


def _items_problem(kinds: tuple[Any, ...], value: Any, field: str) -> str:
    if not isinstance(value, list | tuple):
        return _unlike(field, value, "a list")
    several = len(kinds) == 1 or kinds[-1] is Ellipsis
    if not several and len(value) != len(kinds):
        return _unlike(field, value, f"a list of {len(kinds)}")
    each = kinds[:1] * len(value) if several else kinds
    found = (_problem(kind, one, f"{field}[{i}]") for i, (kind, one) in enumerate(zip(each, value, strict=True)))
    return next(filter(None, found), "")


def _below(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _unlike(field: str, value: Any, expected: str) -> str:
    said = repr(value)
    return f"{field or 'all of it'}: {said if len(said) <= 60 else said[:59] + '…'}, where {expected} belongs"
