"""Editing triplets in WebDataset tars: what each says besides its images, and the whole of one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from pipelines.prompts.edit_columns import IMAGE_COLUMNS, INSTRUCTIONS, EditFile
from schemas.errors import CorruptDataError, InputError
from schemas.foreign_json import BadValue, safe_text
from schemas.tar_members import DamagedTarError, Member, tar_samples

log = logging.getLogger(__name__)

_MAX_JSON_BYTES = 16 * 2**20
_EXPECTED = "<key>.src_img.<jpg|png>, <key>.edited_img.<jpg|png> and <key>.json beside each other"


def tar_rows(file: EditFile) -> Iterator[tuple[int, int, dict[str, Any] | BadValue]]:
    """(sample from 1, byte offset of its first member, values without images, or what is wrong with it). A warning
    names a tar that is not whole, of which the whole samples are used. InputError for no tar."""
    number, last, damage = 0, [], None
    with file.open() as opened:
        try:
            for members in tar_samples(opened, file.place):
                if last:
                    number += 1
                    yield number, last[0].start, _values(opened, last)
                last = members
        except DamagedTarError as error:
            damage = error
            if not last:
                raise InputError(safe_text(error.problem), file=file.place, expected="a WebDataset tar") from None
        except OSError as error:
            raise InputError(f"does not read: {safe_text(str(error))}", file=file.place) from None
        if last and (damage is None or _reads(opened, last)):
            number += 1
            yield number, last[0].start, _values(opened, last)
    if damage is not None:
        said = "%s: cut short or damaged (%s); its first %d triplets are used, what follows is lost"
        log.warning(said, file.place, safe_text(damage.problem), number)


def tar_row(file: EditFile, position: int) -> dict[str, Any]:
    """Values and images of the sample that starts at a byte. CorruptDataError."""
    with file.open() as opened:
        members = next(tar_samples(opened, file.place, position), [])
        values = _values(opened, members)
        if isinstance(values, BadValue):
            raise CorruptDataError(f"{file.place}: {values.problem}")
        return values | {name: one.read(opened, file.place) for name, one in _images(members).items()}


def _values(opened: BinaryIO, members: Sequence[Member]) -> dict[str, Any] | BadValue:
    """The sample's JSON, once all of its members are as they should be."""
    by_suffix = {member.suffix: member for member in members}
    if len(by_suffix) < len(members):
        return BadValue(f"a member of sample {members[0].key!r} comes twice", expected=_EXPECTED)
    odd = next((member for member in members if member.oddity), None)
    if odd is not None:
        return BadValue(f"member {odd.name!r} is a {odd.oddity}", odd.suffix, "plain files")
    missing = [name for name in IMAGE_COLUMNS if name not in _images(members)]
    missing += ["json"] if "json" not in by_suffix else []
    if missing:
        there = ", ".join(by_suffix)
        problem = f"sample {members[0].key!r} has no {' and no '.join(missing)} among {there}"
        return BadValue(safe_text(problem), missing[0], _EXPECTED)
    member = by_suffix["json"]
    try:
        found = json.loads(member.read(opened, "", _MAX_JSON_BYTES))
    except (CorruptDataError, ValueError, RecursionError) as error:
        return BadValue(safe_text(f"member {member.name!r} is no JSON: {error}"), "json", "a JSON object")
    if not isinstance(found, dict):
        problem = f"member {member.name!r} holds {type(found).__name__} {safe_text(repr(found), 40)}"
        return BadValue(problem, "json", f"a JSON object with {INSTRUCTIONS}")
    return found


def _images(members: Sequence[Member]) -> dict[str, Member]:
    """Those that are its images, by column."""
    named = {member.suffix.partition(".")[0]: member for member in members}
    return {name: named[name] for name in IMAGE_COLUMNS if name in named}


def _reads(opened: BinaryIO, members: Sequence[Member]) -> bool:
    """False for the last sample of a tar that is cut, where the cut went through it."""
    try:
        for member in members:
            if not member.oddity:
                member.read(opened, "")
    except CorruptDataError:
        return False
    return set(IMAGE_COLUMNS) <= _images(members).keys() and any(member.suffix == "json" for member in members)
