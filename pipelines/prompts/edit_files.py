"""Editing datasets in OmniEdit's form: which triplets are good enough, and the two images of one.

Parquet with `src_img`, `edited_img` (bytes, or the hub's struct of bytes and path), `edited_prompt_list`, and scores;
or WebDataset tars with `<key>.src_img.<jpg|png>`, `<key>.edited_img.<jpg|png>` and `<key>.json` for the other columns.
A text in the column `caption`, which OmniEdit has not, is the edited image's caption, and nobody is asked for one.
One file, or all of a folder or glob, here, on an object store or on the hub (`hf://datasets/ORG/NAME/...`), in the
natural order of their names; rows in the order of the file. Intake reads no image; a stage reads the two of one row
when it needs them, whichever worker it runs in.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pipelines.prompts.edit_columns import CAPTION, IMAGE_COLUMNS, INSTRUCTIONS, SCORES, EditFile
from pipelines.prompts.edit_parquet import ParquetRows, parquet_rows
from pipelines.prompts.edit_tars import tar_row, tar_rows
from pipelines.prompts.prompt_ids import PromptIds
from pipelines.prompts.worlds import World, edits_at, place_of_edits
from schemas.absent import is_absent, score_of
from schemas.digests import file_stamp
from schemas.errors import CorruptDataError, InputError, StorageError
from schemas.find_files import find_files
from schemas.foreign_json import BadValue, check_text, quote
from schemas.hub_storage import HubStorage
from schemas.records import EditSource, PromptRecord, PromptRow, Reason, Rejection, Subset

log = logging.getLogger(__name__)

KINDS = (".parquet", ".tar")
_MAX_INSTRUCTION_CHARS = 2000
_OPEN_FILES = 4


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
        given = [score_of(scores.get(name)) for name in SCORES]
        return all(score is None or score >= floor for score, floor in zip(given, floors, strict=True))


@dataclass
class EditIntake:
    """Counts of what intake saw."""

    num_rows: int = 0
    num_below_quality: int = 0
    places: list[str] = field(default_factory=list)
    """Of the files that were read."""


def list_edit_files(where: str) -> list[EditFile]:
    """The files that a user means, in natural order of their names. InputError for none."""
    storage, names = find_files(where, KINDS)
    if not names:
        raise InputError(
            "no editing data there",
            file=where,
            field="--edits",
            expected="a .parquet or .tar file, or a folder of them",
        )
    if isinstance(storage, HubStorage) and storage.is_cached:
        log.warning("%s: the %d files of it in the local hub cache are read, and no others", where, len(names))
    if "://" in storage.uri:
        return [EditFile(f"{storage.uri}/{name}") for name in names]
    return [EditFile(str(Path(storage.uri, name).resolve())) for name in names]


def iterate_edits(
    where: str, quality: EditQuality, counts: EditIntake, skip_bad_rows: bool = False
) -> Iterator[PromptRow]:
    """Rows of the triplets that are good enough, file after file, one in memory at a time; a file is opened when it is
    its turn. Ids count the rows of all files.

    The prompt's text is the caption, or the instruction until the image is captioned. A broken row raises InputError
    (file, row, field) or, with `skip_bad_rows`, is a row rejected as `Reason.BAD_INPUT_ROW`.
    """
    files = list_edit_files(where)
    with closing(PromptIds()) as ids:
        for file in files:
            counts.places.append(file.place)
            rows = parquet_rows(file) if file.place.endswith(".parquet") else tar_rows(file)
            for number, position, values in rows:
                counts.num_rows += 1
                prompt_id = ids.generate(Subset.EDITING, counts.num_rows, counts.num_rows)
                try:
                    if isinstance(values, BadValue):
                        raise values
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
                        raise InputError(
                            problem, file=file.place, line=number, field=field, expected=expected
                        ) from None
                    detail = f"{_name(file, files)}row {number}: {problem}"
                    yield PromptRow(
                        PromptRecord(prompt_id, "", Subset.EDITING),
                        rejection=Rejection("intake", Reason.BAD_INPUT_ROW, detail),
                    )
                    continue
                yield PromptRow(
                    PromptRecord(prompt_id, caption or text, Subset.EDITING),
                    edit=EditSource(file.place, position, instruction=text),
                )
    if not counts.num_rows:
        raise InputError("no rows", file=where, expected="at least one triplet")


def _name(file: EditFile, files: list[EditFile]) -> str:
    """For messages that a run keeps: which of several files."""
    return f"{file.place.rpartition('/')[2]}: " if len(files) > 1 else ""


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
    """The first instruction of `edited_prompt_list` (a list of texts, its JSON, or one text) that is not absent.
    BadValue for none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            raise BadValue(f"{quote(cell)} is no list", INSTRUCTIONS, "a list of texts") from None
    texts = cell if isinstance(cell, list) else [cell]
    given = [text for text in texts if not is_absent(text)]
    if not given or not isinstance(given[0], str):
        raise BadValue(f"{quote(cell)} holds no instruction", INSTRUCTIONS, "a list of at least one text")
    return check_text(" ".join(given[0].split()), INSTRUCTIONS, _MAX_INSTRUCTION_CHARS)


def _caption_of(cell: object) -> str:
    """ "" where the file gives none. BadValue for what is no text."""
    return "" if is_absent(cell) else check_text(cell, CAPTION, _MAX_INSTRUCTION_CHARS)


class EditReader:
    """Reads the images of single triplets. The last few files stay open; of a Parquet file a few rows are in memory,
    and their neighbours are read on from there."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, ParquetRows] = OrderedDict()
        self._stamps: dict[str, str] = {}

    def _check_unchanged(self, place: str) -> None:
        """StorageError for a local file that is another one than at the first look: what was read of both would be
        mixed, so nothing goes on until somebody has seen to it."""
        if "://" in place or edits_at(place) is not None:
            return
        try:
            stamp = file_stamp(Path(place))
        except OSError:
            return  # reading it says what is wrong
        if self._stamps.setdefault(place, stamp) != stamp:
            raise StorageError(
                f"{place} was replaced while the run reads it\n"
                f"  put the file back that the run was started with, then `resume`; or start another run"
            )

    def read_images(self, edit: EditSource) -> tuple[bytes, bytes]:
        """Encoded source and edited image. CorruptDataError where the file does not hold this triplet (any more);
        StorageError for a file that was replaced."""
        import pyarrow as pa

        self._check_unchanged(edit.file)
        try:
            values = self._values(edit)
            instruction = instruction_of(values.get(INSTRUCTIONS))
        except (
            OSError,
            LookupError,
            ValueError,
            TypeError,
            BadValue,
            InputError,
            pa.ArrowException,
        ) as error:
            raise CorruptDataError(f"{edit.file}: row {edit.position} does not read: {error}") from error
        if instruction != edit.instruction:
            raise CorruptDataError(f"{edit.file}: row {edit.position} is another one than when the run was started")
        source, edited = (_image_bytes(values.get(name)) for name in IMAGE_COLUMNS)
        return source, edited

    def _values(self, edit: EditSource) -> dict[str, Any]:
        made = edits_at(edit.file)
        if made is not None:
            return made(edit.position)
        return tar_row(EditFile(edit.file), edit.position) if edit.file.endswith(".tar") else self._parquet_row(edit)

    def _parquet_row(self, edit: EditSource) -> dict[str, Any]:
        if edit.file not in self._files:
            self._files[edit.file] = ParquetRows(EditFile(edit.file))
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(edit.file)
        return self._files[edit.file].row(edit.position)


def _image_bytes(cell: object) -> bytes:
    """The bytes of an image cell; b"" where there are none, which then does not decode."""
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    return cell if isinstance(cell, bytes) else b""
