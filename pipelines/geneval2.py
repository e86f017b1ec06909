"""GenEval 2: its data file and images, read and checked before anything is judged, and its scores (Soft-TIFA).

A line of the data is one prompt: `prompt`, `vqa_list` ([question, answer], ...), `skills` (one a question) and
`atom_count`. The data are the user's own file. A question's score is how probable the expected answer is; a prompt's
is their arithmetic (AM) or geometric mean (GM), the benchmark's 100 times the mean over prompts. Shares by skill are
over questions (AM), those by number of atoms over prompts (GM), as in the published analysis.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from inference.judges.intervals import Interval, intervals_by_tag, mean_over_tags
from inference.judges.questions_judge import geometric_mean
from inference.requirements.question_atoms import answer_words
from inference.requirements.questions import parse_questions, parse_vqa_list
from schemas.errors import InputError
from schemas.foreign_json import BadValue, check_text, parse_json, quote
from schemas.images import FORMATS
from schemas.named_file import MAX_TEXT_BYTES, read_file
from schemas.records import Question

MAX_PROMPT_CHARS = 4000
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", *(f".{f.lower()}" for f in FORMATS)}
_ROW = 'a line of geneval2_data.jsonl: {"prompt", "vqa_list", "skills", "atom_count"}'
_IMAGES = "files named by the row's number from 0 (00000.png; several: 00000_0.png) or its id, or a folder a row"
_MAP = '{"a prompt": "its image.png"}, or a list of images'


@dataclass(frozen=True)
class Row:
    """One prompt of the data. number: from 0, of the rows that are not blank. line: where it stands."""

    number: int
    line: int
    prompt: str
    questions: tuple[Question, ...]
    atom_count: int
    row_id: str | None = None

    @property
    def metadata(self) -> str:
        """What a verdict on its images depends on, as JSON."""
        asked = [[one.text, one.answer] for one in self.questions]
        return json.dumps({"prompt": self.prompt, "vqa_list": asked, "skills": [one.skill for one in self.questions]})


def read_data(file: Path) -> list[Row]:
    """Every row. InputError (file, line, field) for the first that is none."""
    try:
        text = read_file(file, 4 * MAX_TEXT_BYTES, "GenEval 2's data").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not valid UTF-8 at byte {error.start + 1}", file=str(file), expected="JSON lines") from None
    rows: list[Row] = []
    for line, said in enumerate(text.split("\n"), 1):
        if not said.strip():
            continue
        try:
            rows.append(_row(len(rows), line, parse_json(said)))
        except BadValue as bad:
            raise InputError(bad.problem, file=str(file), line=line, field=bad.field, expected=bad.expected) from None
    if not rows:
        raise InputError("there is no prompt in the file", file=str(file), expected=_ROW)
    return rows


def _row(number: int, line: int, said: Any) -> Row:
    if not isinstance(said, dict):
        raise BadValue(f"{quote(said)} is no JSON object", expected=_ROW)
    prompt = check_text(said.get("prompt"), "prompt", MAX_PROMPT_CHARS)
    questions = parse_vqa_list(said.get("vqa_list"), said.get("skills"))
    for index, question in enumerate(questions):
        try:
            answer_words(question)
        except InputError as error:
            raise BadValue(error.problem, f"vqa_list[{index}][1]", error.expected) from None
    count = said.get("atom_count")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise BadValue(f"{quote(count)} is no number of atoms", "atom_count", "1 or more")
    row_id = said.get("id")
    return Row(
        number, line, prompt, questions, count or num_atoms(questions), None if row_id is None else str(row_id).strip()
    )


def num_atoms(questions: Sequence[Question]) -> int:
    """Of a prompt whose file does not say: its questions, without those that only ask whether there is just one."""
    counted = [one for one in questions if not (answer_words(one)[0] == "one" and one.text.startswith("How many"))]
    return len(counted) or len(questions)


def find_images(rows: Sequence[Row], images: Path, data: Path) -> tuple[dict[int, list[Path]], list[InputError], int]:
    """Files of each row by its number, what is wrong with rows that have none, and how many files or names belong to
    no row. images: a folder, or a JSON file that maps prompts to files, relative to itself. InputError for what is
    neither."""
    if images.is_dir():
        found, others = _in_folder(rows, images)
    else:
        found, others = _in_map(rows, images)
    faults = [
        InputError(
            f"no image for row {row.number}, {quote(row.prompt)}",
            file=str(data),
            line=row.line,
            expected=f"one in {images}: {_IMAGES if images.is_dir() else _MAP}",
        )
        for row in rows
        if not found.get(row.number)
    ]
    return found, faults, others


def _in_folder(rows: Sequence[Row], folder: Path) -> tuple[dict[int, list[Path]], int]:
    by_id = {row.row_id: row.number for row in rows if row.row_id}
    found: dict[int, list[Path]] = defaultdict(list)
    others = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        files = [path] if path.suffix.lower() in _SUFFIXES and not path.is_dir() else []
        if path.is_dir():
            inner = path / "samples" if (path / "samples").is_dir() else path
            files = [p for p in sorted(inner.iterdir()) if p.suffix.lower() in _SUFFIXES and p.name[0] != "."]
        number = _number_of(path.name if path.is_dir() else path.stem, by_id, len(rows))
        if files and number is None:
            others += len(files)
        elif number is not None:
            found[number] += files
    return dict(found), others


def _number_of(name: str, by_id: Mapping[str, int], num_rows: int) -> int | None:
    """The row that a file is of, by its name without the ending."""
    bare = re.sub(r"[_-]\d+$", "", name)
    for known in (name, bare):
        if known in by_id:
            return by_id[known]
    number = int(bare) if re.fullmatch(r"[0-9]{1,9}", bare) else num_rows
    return number if number < num_rows else None


def _in_map(rows: Sequence[Row], file: Path) -> tuple[dict[int, list[Path]], int]:
    try:
        said = parse_json(read_file(file, 4 * MAX_TEXT_BYTES, f"a folder of images, or {_MAP}").decode("utf-8-sig"))
        if not isinstance(said, dict):
            raise BadValue(f"{quote(said)} is no JSON object", expected=_MAP)
        listed = {prompt.strip(): _files(prompt, value, file.parent) for prompt, value in said.items()}
    except UnicodeDecodeError:
        raise InputError("not valid UTF-8", file=str(file), expected=_MAP) from None
    except BadValue as bad:
        raise InputError(bad.problem, file=str(file), field=bad.field, expected=bad.expected or _MAP) from None
    found = {row.number: listed[row.prompt] for row in rows if row.prompt in listed}
    return found, len(listed.keys() - {row.prompt for row in rows})


def _files(prompt: str, value: Any, folder: Path) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise BadValue(f"{quote(value)} is no image", quote(prompt), _MAP)
    return [folder / Path(name).expanduser() for name in names]


def read_run(evaluation: Path) -> tuple[list[Row], dict[int, list[Path]]]:
    """The prompts of a search that have questions, and the images that it delivered, from its `evaluation` folder.
    InputError where there are none."""
    rows: list[Row] = []
    images: dict[int, list[Path]] = {}
    for file in sorted(evaluation.glob("*/*/metadata.jsonl")):
        said = json.loads(file.read_text("utf-8"))
        questions = parse_questions(said["questions"]) if said.get("questions") else ()
        if questions:
            images[len(rows)] = sorted((file.parent / "samples").glob("*.png"))
            rows.append(Row(len(rows), 1, said["prompt"], questions, num_atoms(questions)))
    if not rows:
        raise InputError(
            "none of its prompts has questions",
            file=str(evaluation),
            field="--run",
            expected="a finished search of prompts with a vqa_list, such as geneval2_data.jsonl",
        )
    return rows, images


def result_line(row: Row, name: str, probabilities: Sequence[float]) -> dict[str, Any]:
    """What is kept of one image: each question with the probability of its answer. correct: all are at least .5."""
    asked = [
        {"question": one.text, "answer": one.answer, "skill": one.skill, "probability": round(float(p), 6)}
        for one, p in zip(row.questions, probabilities, strict=True)
    ]
    return {
        "filename": name,
        "row": row.number,
        "prompt": row.prompt,
        "atom_count": row.atom_count,
        "soft_tifa_am": round(fmean(probabilities), 6),
        "soft_tifa_gm": round(geometric_mean(probabilities), 6),
        "correct": all(p >= 0.5 for p in probabilities),
        "questions": asked,
        "metadata": row.metadata,
    }


def summarise(lines: Sequence[Mapping[str, Any]], judge: str) -> dict[str, Any]:
    """Scores in percent with their 95 % intervals over prompts. Images of one prompt are averaged first."""
    by_row: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_row[line["row"]].append(line)
    numbers = list(by_row)
    am, gm = ([fmean(one[name] for one in by_row[n]) for n in numbers] for name in ("soft_tifa_am", "soft_tifa_gm"))
    counts = [f"{by_row[n][0]['atom_count']:02d}" for n in numbers]
    values, skills, clusters = [], [], []
    for n in numbers:
        for asked in zip(*(one["questions"] for one in by_row[n]), strict=True):
            values.append(fmean(one["probability"] for one in asked))
            skills.append(asked[0]["skill"] or "no skill")
            clusters.append(n)
    by_count = intervals_by_tag(gm, counts, numbers)
    return {
        "judge": judge,
        "num_prompts": len(numbers),
        "num_images": len(lines),
        "num_questions": len(values),
        "soft_tifa_gm": _percent(mean_over_tags(gm, ["all"] * len(gm), numbers)),
        "soft_tifa_am": _percent(mean_over_tags(am, ["all"] * len(am), numbers)),
        "am_by_skill": {s: _percent(i) for s, i in sorted(intervals_by_tag(values, skills, clusters).items())},
        "gm_by_atom_count": {str(int(name)): _percent(by_count[name]) for name in sorted(by_count)},
    }


def _percent(found: Interval) -> list[float | None]:
    return [None if value is None else round(100 * value, 2) for value in found.as_list()]
