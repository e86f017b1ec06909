"""Prompt files row by row: `.txt`, `.jsonl` and `.parquet` as unchecked rows, with memory bounded by one row or
batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from schemas.absent import is_absent
from schemas.errors import InputError
from schemas.foreign_json import BadValue, parse_json, quote, safe_text

SUFFIXES = (".txt", ".jsonl", ".parquet")
_LISTS = ("include", "exclude", "questions", "vqa_list", "skills")
_COLUMNS = ("prompt", "text", "id", "tag", "atom_count", *_LISTS)
_BATCH_ROWS = 256


@dataclass(frozen=True)
class RawRow:
    """One row as it was found; every value is whatever the file holds.

    line: counted from 1 (of a Parquet file: the row). problem: why the row has no values at all. excerpt: what to show
    of it then.
    """

    line: int
    prompt: object = None
    prompt_id: object = None
    tag: object = None
    include: object = None
    exclude: object = None
    questions: object = None
    vqa_list: object = None
    skills: object = None
    atom_count: object = None
    problem: BadValue | None = None
    excerpt: str = ""


def _lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, str | BadValue, str]]:
    """(line number, text or what is wrong with it, excerpt) of every line that is not blank."""
    line = 0
    while data := stream.readline(max_bytes + 1):
        line += 1
        if line == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")
        excerpt = data[:400].decode("utf-8", "replace")
        if len(data) > max_bytes and not data.endswith(b"\n"):
            while (rest := stream.readline(max_bytes)) and not rest.endswith(b"\n"):
                pass  # the rest of the line, a piece at a time
            yield (
                line,
                BadValue(f"the line is longer than {max_bytes} bytes", expected="one prompt a line"),
                excerpt,
            )
            continue
        try:
            text = data.decode("utf-8").strip(" \t\r\n")
        except UnicodeDecodeError as error:
            problem = f"not valid UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1} of the line"
            yield line, BadValue(problem, expected="a file in UTF-8"), excerpt
            continue
        if text:
            yield line, text, excerpt


def _text_rows(stream: BinaryIO, max_bytes: int) -> Iterator[RawRow]:
    for line, text, excerpt in _lines(stream, max_bytes):
        if isinstance(text, BadValue):
            yield RawRow(line, problem=text, excerpt=excerpt)
        else:
            yield RawRow(line, prompt=None if is_absent(text) else text, excerpt=excerpt)


def _is_blank(item: object) -> bool:
    """A text without a word: where nothing stands in its place, it is named as one."""
    return isinstance(item, str) and not item.strip()


def _raw_row(line: int, value: dict[str, Any], excerpt: str) -> RawRow:
    named = {key: item for key, item in value.items() if key in ("prompt", "text", "id") and _is_blank(item)}
    value = {key: item for key, item in value.items() if not is_absent(item)} | named
    given = {key: value[key] for key in ("prompt", "text") if key in value}
    told = {key: item for key, item in given.items() if not _is_blank(item)} or given
    prompt, text = told.get("prompt"), told.get("text")
    if prompt is not None and text is not None and prompt != text:
        problem = BadValue("both prompt and text, and they differ", "text", "one of prompt and text")
        return RawRow(line, problem=problem, excerpt=excerpt)
    known = {key: value.get(key) for key in ("tag", "atom_count", *_LISTS)}
    return RawRow(line, prompt if prompt is not None else text, value.get("id"), **known, excerpt=excerpt)


def _jsonl_rows(stream: BinaryIO, max_bytes: int) -> Iterator[RawRow]:
    for line, text, excerpt in _lines(stream, max_bytes):
        try:
            if isinstance(text, BadValue):
                raise text
            value = parse_json(text)
            if not isinstance(value, dict):
                raise BadValue(
                    f"{quote(value)} is no JSON object", expected='one object a line, as {"prompt": "a cat"}'
                )
        except BadValue as bad:
            yield RawRow(line, problem=bad, excerpt=excerpt)
        else:
            yield _raw_row(line, value, excerpt)


def _list_of_cell(cell: Any) -> Any:
    """A Parquet cell that holds a list in its JSON form: a JSON string, or a list of its own; of structs absent fields
    are null, and a clause's position, which Arrow cannot hold as [str, int], is a struct of relation and index."""
    if is_absent(cell):
        return None
    if isinstance(cell, str):
        return parse_json(cell)
    if not isinstance(cell, list):
        return cell
    clauses = []
    for entry in cell:
        if isinstance(entry, dict) and isinstance(position := entry.get("position"), dict):
            place = [position.get("relation"), position.get("index")]
            entry = {**entry, "position": None if all(map(is_absent, place)) else place}
        clauses.append(entry)
    return clauses


def _parquet_row(line: int, value: dict[str, Any]) -> RawRow:
    prompt = value.get("prompt") or value.get("text")
    excerpt = prompt[:400] if isinstance(prompt, str) else ""
    lists: dict[str, Any] = {}
    for key in _LISTS:
        try:
            lists[key] = _list_of_cell(value.get(key))
        except BadValue as bad:
            return RawRow(line, problem=BadValue(bad.problem, key, bad.expected), excerpt=excerpt)
    return _raw_row(line, {**value, **lists}, excerpt)


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    line = 0
    try:
        # Buffered, not pre-buffered: a file that is one big row group is still read a few pages at a time.
        with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            names = file.schema_arrow.names
            columns = [name for name in _COLUMNS if name in names]
            if twice := [name for name in columns if names.count(name) > 1]:
                raise InputError("two columns of one name", file=str(path), field=twice[0], expected="one")
            if not {"prompt", "text"} & set(columns):
                found = ", ".join(quote(name) for name in names[:12]) or "none"
                raise InputError(
                    f"no prompt column among {found}",
                    file=str(path),
                    field="prompt",
                    expected="a column prompt or text",
                )
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                for index in range(batch.num_rows):
                    line += 1
                    try:
                        (value,) = batch.slice(index, 1).to_pylist()
                    except UnicodeDecodeError:
                        yield RawRow(line, problem=BadValue("not valid UTF-8", expected="strings in UTF-8"))
                    else:
                        yield _parquet_row(line, value)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"not readable as Parquet: {safe_text(str(error))}",
            file=str(path),
            line=line or None,
            expected="a Parquet file",
        ) from None


def _refuse_other_encodings(path: Path) -> None:
    with open(path, "rb") as stream:
        start = stream.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError("the file is UTF-16 or UTF-32", file=str(path), line=1, expected="a file in UTF-8")


def check_prompt_file(path: Path) -> None:
    """Raise InputError for what can be said of a prompt file without reading its rows."""
    kinds = "a file ending in " + ", ".join(SUFFIXES)
    if path.is_dir():
        raise InputError("this is a directory", file=str(path), expected=kinds)
    if not path.exists():
        raise InputError("no such file", file=str(path), expected=kinds)
    if not path.is_file():
        raise InputError("this is no regular file", file=str(path), expected=kinds)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"prompt files of kind {path.suffix or '(no suffix)'!r} are not read",
            file=str(path),
            expected=kinds,
        )
    try:
        if path.stat().st_size == 0:
            raise InputError("the file is empty", file=str(path), expected="one prompt or more")
        if path.suffix.lower() != ".parquet":
            _refuse_other_encodings(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path), expected=kinds) from None


def raw_rows(path: Path, max_line_bytes: int) -> Iterator[RawRow]:
    """Every row of a prompt file, in order; blank lines of text files are no rows."""
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    read = _text_rows if path.suffix.lower() == ".txt" else _jsonl_rows
    with open(path, "rb") as stream:
        yield from read(stream, max_line_bytes)
