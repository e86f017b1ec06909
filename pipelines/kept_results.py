"""Lines of a results.jsonl as they come, so that whoever is killed on the way goes on from there.

    results.partial.jsonl      the key of the judge, then a line an image: what was said, and of which bytes

A line counts where the judge's key, the image's bytes and what was asked are still the same.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.atomic_file import write_whole
from schemas.errors import InputError
from schemas.plain_text import one_line

KEY = "key"
"""In a summary.json: of all that its verdicts depend on besides images and prompts."""


def check_results(out: Path, key: str) -> None:
    """InputError where `out` holds the results of another judge, or of another program: they are not written over."""
    if not (out / "results.jsonl").exists():
        return
    try:
        summary = json.loads((out / "summary.json").read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        summary = {}
    if isinstance(summary, dict) and summary.get(KEY) == key:
        return
    judge = summary.get("judge") if isinstance(summary, dict) else None
    whose = f"judge {one_line(judge)!r} with other settings or models" if judge else "another program"
    raise InputError(
        f"holds results of {whose}, which are not written over",
        file=str(out / "results.jsonl"),
        field="--out",
        expected="another folder",
    )


class KeptResults:
    """What an earlier start got done, and what this one adds. OSError as from any file."""

    def __init__(self, path: Path, key: str) -> None:
        """key: of everything that a verdict depends on besides the image and its prompt."""
        self._path = path
        self._lines = {(entry["sha256"], entry["line"]["filename"]): entry["line"] for entry in _read(path, key)}
        entries = [_text({"sha256": sha, "line": line}) for (sha, _), line in self._lines.items()]
        write_whole(path, _text({"key": key}) + "".join(entries))  # without what a kill cut off

    def line_of(self, name: str, sha256: str, metadata: str) -> dict[str, Any] | None:
        """The line of an image with these bytes and this prompt; None where it is still to be judged."""
        line = self._lines.get((sha256, name))
        return line if line is not None and line["metadata"] == metadata else None

    def add(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """(SHA-256 of the image, line) of what was judged; on the disk when this returns."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write("".join(_text({"sha256": sha, "line": line}) for sha, line in lines))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Once the whole is written elsewhere."""
        self._path.unlink(missing_ok=True)


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"


def _read(path: Path, key: str) -> list[dict[str, Any]]:
    """Entries of a file of that key, up to the first that does not read."""
    try:
        head, *texts = path.read_text("utf-8").splitlines()
        if json.loads(head) != {"key": key}:
            return []
    except (FileNotFoundError, ValueError):
        return []
    entries = []
    for text in texts:
        try:
            entry = json.loads(text)
            known = entry["sha256"], entry["line"]["filename"], entry["line"]["metadata"], entry["line"]["correct"]
        except (ValueError, KeyError, TypeError):
            break
        if not isinstance(known[-1], bool):
            break
        entries.append(entry)
    return entries
