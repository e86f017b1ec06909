"""A folder in GenEval's layout, and what GenEval's own scorer said of it: read and checked before anything is judged.

00000/metadata.jsonl       one JSON object, on one line or several: prompt, tag, include, exclude
00000/samples/0000.png     its images
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.judges.known_words import KnownWords
from inference.requirements.clauses import parse_exclude, parse_include
from pipelines.prompts.judgeable import Asked
from schemas.errors import InputError
from schemas.foreign_json import BadValue, check_choice, check_text, parse_json, quote
from schemas.named_file import MAX_TEXT_BYTES, read_file
from schemas.records import PromptRecord, Tag

MAX_PROMPT_CHARS = 2000
_MAX_RESULTS_BYTES = 2**30
_LAYOUT = "00000/metadata.jsonl and 00000/samples/*.png, ..."
_METADATA = "prompt, tag and include, as GenEval"


@dataclass(frozen=True)
class PromptFolder:
    """One prompt: what is asked for and where that stands, its metadata as it stands, and its images in order."""

    asked: Asked
    metadata: dict[str, Any]
    samples: tuple[Path, ...]

    @property
    def record(self) -> PromptRecord:
        """What is asked for."""
        return self.asked.record


def read_layout(folder: Path) -> tuple[list[PromptFolder], list[InputError]]:
    """Every prompt of the folder, in order, and what is wrong with those that cannot be judged: they lack metadata or
    samples, or the metadata does not read. Folders that are named by a number are prompts (GenEval), and so are those
    that hold metadata or samples; hidden ones are none. InputError where there is no prompt."""
    prompts: list[PromptFolder] = []
    faults: list[InputError] = []
    for place in sorted(folder.glob("*")):
        try:
            if _is_prompt(place):
                prompts.append(_read_prompt(place))
        except InputError as error:
            faults.append(error)
    if not prompts and not faults:
        raise InputError("no images", file=str(folder), expected=_LAYOUT)
    return prompts, faults


def read_official(file: Path, names: Collection[str]) -> dict[str, bool]:
    """The verdicts of a results.jsonl of GenEval's own scorer on the images of these names, which are matched by their
    last three parts. InputError where there are none."""
    by_key = {}
    for number, text in enumerate(_read_text(file, _MAX_RESULTS_BYTES).rstrip("\n").split("\n"), 1):
        try:
            said = json.loads(text)
            if not isinstance(said["correct"], bool):
                raise ValueError(f"correct is {quote(said['correct'])}, neither true nor false")
            by_key[_key(said["filename"])] = said["correct"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{error!r}", file=str(file), line=number, expected="a line of GenEval's results.jsonl"
            ) from error
    found = {name: by_key[_key(name)] for name in names if _key(name) in by_key}
    if not found:
        raise InputError("names none of these images", file=str(file), expected="results of the same folder")
    return found


def _key(name: str) -> str:
    return "/".join(Path(name).parts[-3:])


def _is_prompt(place: Path) -> bool:
    named = place.name.isdigit() or (place / "metadata.jsonl").exists() or (place / "samples").exists()
    return place.is_dir() and named and not place.name.startswith(".")


def _read_prompt(place: Path) -> PromptFolder:
    file = place / "metadata.jsonl"
    if not file.exists():
        raise InputError("a prompt's folder without metadata.jsonl", file=str(place), expected=_LAYOUT)
    asked, metadata = _read_metadata(file)
    samples = tuple(sorted(p for p in (place / "samples").glob("*.png") if not p.name.startswith(".")))
    if not samples:
        raise InputError("a prompt's folder without samples", file=str(place), expected=_LAYOUT)
    return PromptFolder(asked, metadata, samples)


def _read_metadata(file: Path) -> tuple[Asked, dict[str, Any]]:
    text = _read_text(file).strip()
    line = None if "\n" in text else 1  # of JSON over several lines the message says where, as far as it is known
    try:
        said = parse_json(text)
        if not isinstance(said, dict):
            raise BadValue(f"{quote(said)} is no JSON object", expected=_METADATA)
        for key in ("prompt", "tag", "include"):
            if key not in said:
                raise BadValue(f"there is no {key}", key, _METADATA)
        prompt = check_text(said["prompt"], "prompt", MAX_PROMPT_CHARS)
        tag = check_choice(said["tag"], "tag", [tag.value for tag in Tag])
        include = parse_include(said["include"], KnownWords())
        if not include:
            raise BadValue("nothing is asked for", "include", "one clause or more, as GenEval")
        exclude = parse_exclude(said.get("exclude"), include, KnownWords())
    except BadValue as error:
        raise InputError(
            error.problem, file=str(file), line=line, field=error.field, expected=error.expected
        ) from error
    return Asked(PromptRecord(file.parent.name, prompt, "rule", tag, include, exclude), str(file), line), said


def _read_text(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    try:
        return read_file(file, max_bytes, "a file in UTF-8").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
        raise InputError(problem, file=str(file), expected="a file in UTF-8") from error
