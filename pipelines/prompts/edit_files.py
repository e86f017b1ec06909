"""Editing datasets in OmniEdit's form: which triplets are good enough, and the two images of one.

Parquet with `src_img`, `edited_img` (bytes, or the hub's struct of bytes and path), `edited_prompt_list`, and scores;
or WebDataset tars with `<key>.src_img.<jpg|png>`, `<key>.edited_img.<jpg|png>` and `<key>.json` for the other columns.
A text in the column `caption`, which OmniEdit has not, is the edited image's caption, and nobody is asked for one.
Intake reads no image; a stage reads the two of one row when it needs them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from pipelines.prompts.checked_json import BadValue, check_text, quote, safe_text
from pipelines.prompts.prompt_ids import PromptIds
from pipelines.prompts.worlds import World, edits_at, place_of_edits
from schemas.errors import CorruptDataError, InputError
from schemas.records import EditSource, PromptRecord, PromptRow, Reason, Rejection, Subset

IMAGE_COLUMNS = ("src_img", "edited_img")
INSTRUCTIONS = "edited_prompt_list"
CAPTION = "caption"
SCORES = ("sc_score_1", "sc_score_2", "pq_score", "o_score")
_MAX_INSTRUCTION_CHARS = 2000
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class EditQuality:
    """What a triplet must reach, on OmniEdit's scale of 0 to 10; a score that a file does not have asks nothing."""

    min_semantic: float = 9.0
    """`sc_score_1`, the edit was done, and `sc_score_2`, nothing else was changed."""
    min_perceptual: float = 8.0
    """`pq_score`, the picture is sound."""
    min_overall: float = 0.0
    """`o_score`"""

    def accepts(self, scores: dict[str, Any]) -> bool:
        floors = (self.min_semantic, self.min_semantic, self.min_perceptual, self.min_overall)
        return all(
            scores.get(name) is None or float(scores[name]) >= floor for name, floor in zip(SCORES, floors, strict=True)
        )


@dataclass
class EditIntake:
    """Counts of what intake saw."""

    num_rows: int = 0
    num_below_quality: int = 0


def check_edit_file(path: Path) -> None:
    """InputError for what can be said of the file without reading its rows."""
    kinds = "a .parquet or .tar file of an editing dataset"
    if not path.is_file():
        raise InputError("no such file", file=str(path), field="--edits", expected=kinds)
    if path.suffix not in (".parquet", ".tar"):
        raise InputError(f"editing data of kind {path.suffix!r} is not read", file=str(path), expected=kinds)


def iterate_edits(
    path: Path, quality: EditQuality, counts: EditIntake, skip_bad_rows: bool = False
) -> Iterator[PromptRow]:
    """Rows of the triplets that are good enough, in the file's order, one in memory at a time.

    The prompt's text is the caption, or the instruction until the image is captioned. A broken row raises InputError
    (file, row, field) or, with `skip_bad_rows`, is a row rejected as `Reason.BAD_INPUT_ROW`.
    """
    check_edit_file(path)
    place = str(path.resolve())
    with closing(PromptIds()) as ids:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _tar_rows(path)
        for number, position, values in rows:
            counts.num_rows += 1
            prompt_id = ids.generate(Subset.EDITING, number, number)
            try:
                if not quality.accepts(values):
                    counts.num_below_quality += 1
                    continue
                text = instruction_of(values.get(INSTRUCTIONS))
                caption = _caption_of(values.get(CAPTION))
            except (BadValue, ValueError, TypeError) as error:
                problem = error.problem if isinstance(error, BadValue) else str(error)
                if not skip_bad_rows:
                    field = error.field if isinstance(error, BadValue) else "scores"
                    expected = error.expected if isinstance(error, BadValue) else "numbers from 0 to 10"
                    raise InputError(problem, file=str(path), line=number, field=field, expected=expected) from None
                detail = f"row {number}: {problem}"
                yield PromptRow(
                    PromptRecord(prompt_id, "", Subset.EDITING),
                    rejection=Rejection("intake", Reason.BAD_INPUT_ROW, detail),
                )
                continue
            yield PromptRow(
                PromptRecord(prompt_id, caption or text, Subset.EDITING),
                edit=EditSource(place, position, instruction=text),
            )


def iterate_world_edits(world: World, seed: int, quality: EditQuality, counts: EditIntake) -> Iterator[PromptRow]:
    """A world's triplets, without end; `EditReader` makes the images of one again when they are needed."""
    place = place_of_edits(world, seed)
    for number in count():
        counts.num_rows += 1
        values = world.edit_row(seed, number)
        if quality.accepts(values):
            text = instruction_of(values[INSTRUCTIONS])
            prompt = PromptRecord(f"{Subset.EDITING}-{number:06d}", text, Subset.EDITING)
            yield PromptRow(prompt, edit=EditSource(place, number, text))
        else:
            counts.num_below_quality += 1


def instruction_of(cell: object) -> str:
    """The first instruction of `edited_prompt_list`: a list of texts, its JSON, or one text. BadValue for none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise BadValue(f"{quote(cell)} is no list", INSTRUCTIONS, "a list of texts") from None
    texts = [cell] if isinstance(cell, str) else cell
    if not isinstance(texts, list) or not texts:
        raise BadValue(f"{quote(cell)} holds no instruction", INSTRUCTIONS, "a list of at least one text")
    return check_text(" ".join(str(texts[0]).split()), INSTRUCTIONS, _MAX_INSTRUCTION_CHARS)


def _caption_of(cell: object) -> str:
    """ "" where the file gives none. BadValue for what is no text."""
    return "" if cell in (None, "") else check_text(cell, CAPTION, _MAX_INSTRUCTION_CHARS)


def _parquet_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(row from 1, row from 0, values without images)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            if missing := [name for name in (*IMAGE_COLUMNS, INSTRUCTIONS) if name not in names]:
                raise InputError(
                    f"no column {', '.join(missing)}",
                    file=str(path),
                    field=missing[0],
                    expected=f"{', '.join(IMAGE_COLUMNS)} and {INSTRUCTIONS}, as OmniEdit has them",
                )
            columns = [name for name in (INSTRUCTIONS, CAPTION, *SCORES) if name in names]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield number, number - 1, values
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not readable as Parquet: {safe_text(str(error))}", file=str(path)) from None
    if not number:
        raise InputError("no rows", file=str(path), expected="at least one triplet")


def _tar_rows(path: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(sample from 1, byte offset of its first member, values without images)."""
    number, key, offset, values = 0, "", 0, {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                name = info.name.rpartition("/")[2]
                start, _, suffix = name.partition(".")
                if start != key:
                    if key:
                        number += 1
                        yield number, offset, values
                    key, offset, values = start, info.offset, {}
                if suffix == "json":
                    file = tar.extractfile(info)
                    values = json.loads(file.read()) if file else {}
    except (tarfile.TarError, ValueError, OSError) as error:
        raise InputError(f"not readable as a WebDataset tar: {safe_text(str(error))}", file=str(path)) from None
    if not key:
        raise InputError("no samples", file=str(path), expected="at least one triplet")
    yield number + 1, offset, values


class EditReader:
    """Reads the images of single triplets; the last row group of a Parquet file stays in memory for its neighbours."""

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._group: tuple[str, int, Any] | None = None

    def read_images(self, edit: EditSource) -> tuple[bytes, bytes]:
        """Encoded source and edited image. CorruptDataError where the file does not hold this triplet (any more)."""
        try:
            values = self._values(edit)
            instruction = instruction_of(values.get(INSTRUCTIONS))
        except (OSError, KeyError, IndexError, ValueError, TypeError, BadValue, tarfile.TarError) as error:
            raise CorruptDataError(f"{edit.file}: row {edit.position} does not read: {error}") from error
        if instruction != edit.instruction:
            raise CorruptDataError(f"{edit.file}: row {edit.position} is another one than when the run was started")
        source, edited = (_image_bytes(values.get(name)) for name in IMAGE_COLUMNS)
        return source, edited

    def _values(self, edit: EditSource) -> dict[str, Any]:
        made = edits_at(edit.file)
        if made is not None:
            return made(edit.position)
        return self._tar_sample(edit) if edit.file.endswith(".tar") else self._parquet_row(edit)

    def _parquet_row(self, edit: EditSource) -> dict[str, Any]:
        import pyarrow.parquet as pq

        if edit.file not in self._files:
            self._files[edit.file] = pq.ParquetFile(edit.file, pre_buffer=False)
        file = self._files[edit.file]
        group, row = 0, edit.position
        while row >= (size := file.metadata.row_group(group).num_rows):
            row -= size
            group += 1
        if self._group is None or self._group[:2] != (edit.file, group):
            columns = [*IMAGE_COLUMNS, INSTRUCTIONS]
            self._group = (edit.file, group, file.read_row_group(group, columns=columns, use_threads=False))
        (values,) = self._group[2].slice(row, 1).to_pylist()
        return values

    def _tar_sample(self, edit: EditSource) -> dict[str, Any]:
        values: dict[str, Any] = {}
        with open(edit.file, "rb") as file:
            file.seek(edit.position)
            with tarfile.open(fileobj=file, mode="r|") as tar:
                first = ""
                for info in tar:
                    key, _, suffix = info.name.rpartition("/")[2].partition(".")
                    first = first or key
                    if key != first:
                        break
                    body = tar.extractfile(info)
                    data = body.read() if body else b""
                    if suffix == "json":
                        values |= json.loads(data)
                    elif suffix.partition(".")[0] in IMAGE_COLUMNS:
                        values[suffix.partition(".")[0]] = data
        return values


def _image_bytes(cell: object) -> bytes:
    """The bytes of an image cell; b"" where there are none, which then does not decode."""
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""
