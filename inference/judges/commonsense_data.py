"""CommonsenseT2I's data file, and files of expanded prompts beside it: read and checked before anything is drawn.

A row is a pair: `prompt1`, `prompt2`, `description1`, `description2`, and `category` and `likelihood` where they are
there. It is published as a JSON list (data.json) and as Parquet; JSON lines and CSV read too, and JSON that has its
rows inside an object: by number, or as a list ("rows" of the hub's viewer, which wraps each in "row").
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inference.judges.commonsense_t2i import CommonsensePair
from schemas.absent import is_absent
from schemas.errors import InputError
from schemas.foreign_json import BadValue, check_text, quote
from schemas.named_file import MAX_TEXT_BYTES, read_file

FIELDS = ("prompt1", "prompt2", "description1", "description2")
EXPANDED_FIELDS = ("expanded1", "expanded2")
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
MAX_CHARS = 4000
_LABELS = ("category", "likelihood")
_ROW = "rows with " + ", ".join(FIELDS)
Row = tuple[int | None, Any]
"""Where it stands (None: nobody knows), and what it says."""


def read_pairs(path: Path) -> list[CommonsensePair]:
    """Every pair. InputError (file, line, field) for a row that is none, and for a file without any."""
    pairs = []
    for number, (line, row) in enumerate(_rows(path, _ROW, (*FIELDS, *_LABELS)), 1):
        prompts = _texts(path, number, line, row, ("prompt1", "prompt2"))
        descriptions = _texts(path, number, line, row, ("description1", "description2"))
        category, likelihood = (_label(row, name) for name in _LABELS)
        pairs.append(CommonsensePair(prompts, descriptions, category or "all", likelihood))
    if not pairs:
        raise InputError("no pairs", file=str(path), expected=_ROW)
    return pairs


def read_expanded(
    path: Path, pairs: Sequence[CommonsensePair], fields: tuple[str, str] = EXPANDED_FIELDS
) -> list[tuple[str, str]]:
    """The expanded prompts of each pair, from the two named fields of rows in the order of the data. InputError (file,
    line, field) for a row without them, one of other prompts than the data's, and for more or fewer rows."""
    found = []
    named = tuple(name for name in FIELDS[:2] if name not in fields)
    for number, (line, row) in enumerate(_rows(path, "rows with " + ", ".join(fields), (*fields, *named)), 1):
        texts = _texts(path, number, line, row, fields)
        for side, name in enumerate(FIELDS[:2]):
            said = _label(row, name) if name in named else ""
            if said and number <= len(pairs) and _plain(said) != _plain(pairs[number - 1].prompts[side]):
                raise InputError(
                    f"row {number} is of {quote(said)}, row {number} of the data of "
                    f"{quote(pairs[number - 1].prompts[side])}",
                    file=str(path),
                    line=line,
                    field=name,
                    expected="rows in the order of the data",
                )
        found.append(texts)
    if len(found) != len(pairs):
        raise InputError(f"{len(found)} rows", file=str(path), expected=f"one for each of the data's {len(pairs)}")
    return found


def _plain(text: str) -> str:
    return " ".join(text.split())


def _label(row: Any, name: str) -> str:
    return "" if is_absent(row.get(name)) else _plain(str(row[name]))


def _texts(path: Path, number: int, line: int | None, row: Any, fields: tuple[str, str]) -> tuple[str, str]:
    expected = "rows with " + ", ".join(dict.fromkeys((*FIELDS, *fields)))
    try:
        if not isinstance(row, dict):
            raise BadValue(f"{quote(row)} is no row", None, expected)
        for name in fields:
            if is_absent(row.get(name)):
                raise BadValue("no text", name, expected)
        # Descriptions have lines, which the benchmark puts into one with commas.
        one, two = (
            check_text(", ".join(_lines(row[name])) if isinstance(row[name], str) else row[name], name, MAX_CHARS)
            for name in fields
        )
        return one, two
    except BadValue as bad:
        problem = f"row {number}: {bad.problem}"
        raise InputError(problem, file=str(path), line=line, field=bad.field, expected=bad.expected) from None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _rows(path: Path, expected: str, columns: Sequence[str]) -> Iterator[Row]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if len(files) != 1:
            named = ", ".join(p.name for p in files[:5]) or "none"
            raise InputError(f"a folder with {len(files)} files of data ({named})", file=str(path), expected="one")
        path = files[0]
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        is_there = path.exists()
        raise InputError(
            "unknown kind of file" if is_there else "no such file", file=str(path), expected=", ".join(SUFFIXES)
        )
    data = read_file(path, 4 * MAX_TEXT_BYTES, f"CommonsenseT2I as {', '.join(SUFFIXES)}")
    try:
        if kind == ".parquet":
            yield from _of_parquet(data, columns)
            return
        text = data.decode("utf-8-sig")
        if kind == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""))
            for row in reader:
                yield reader.line_num, row
            return
        yield from _of_json(text)
    except UnicodeDecodeError as error:
        raise InputError(f"not valid UTF-8 at byte {error.start + 1}", file=str(path), expected=expected) from None
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} at column {error.colno}"
        raise InputError(problem, file=str(path), line=error.lineno, expected=expected) from None
    except (ValueError, RecursionError, OSError, csv.Error) as error:
        raise InputError(f"does not read: {str(error)[:200]}", file=str(path), expected=expected) from None


def _of_parquet(data: bytes, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(256, columns=there, use_threads=False):
            yield from ((None, row) for row in batch.to_pylist())


def _of_json(text: str) -> Iterator[Row]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _is_object(lines[0][1]):
        for number, line in lines:
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                # The place in the file, not in the line.
                raise json.JSONDecodeError(error.msg, "\n" * (number - 1) + line, number - 1 + error.pos) from None
        return
    if not lines:
        return
    said = json.loads(text)
    if isinstance(said, list):
        yield from zip(_starts(text), said, strict=True)
        return
    for row in _inside(said):
        yield None, row["row"] if isinstance(row, dict) and isinstance(row.get("row"), dict) else row


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _starts(text: str) -> Iterator[int]:
    """The line in which each value of a JSON list begins."""
    decoder, at, line, counted = json.JSONDecoder(), text.index("[") + 1, 1, 0
    while True:
        while text[at] in " \t\r\n,":
            at += 1
        if text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        yield line
        at = decoder.raw_decode(text, at)[1]


def _inside(said: Any) -> list[Any]:
    """Rows of an object: itself, its values, or the one list that it holds."""
    if not isinstance(said, dict) or FIELDS[0] in said:
        return [said]
    lists = [value for value in said.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    rows = [value for value in lists if not isinstance(value[0].get("type"), dict)]  # the viewer's "features" are none
    if len(rows) == 1:
        return rows[0]
    return list(said.values()) if said and all(isinstance(value, dict) for value in said.values()) else [said]
