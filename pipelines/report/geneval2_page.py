"""The page of a GenEval 2 evaluation: the scores, and pictures with the probability of each expected answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.judges.intervals import Interval
from inference.requirements.atoms import HOLDS
from pipelines.report.pictures import data_uri
from pipelines.report.shell import as_filter, render
from schemas.named_file import MAX_IMAGE_BYTES, read_file

MAX_PICTURES = 1000
PICTURE_PX = 256


@dataclass(frozen=True)
class Answer:
    """One question with how probable its expected answer is."""

    question: str
    answer: str
    probability: float

    @property
    def is_right(self) -> bool:
        """Whether the expected answer is the likelier one."""
        return self.probability >= HOLDS


@dataclass(frozen=True)
class Scored:
    """One image. verdict: right or wrong. skills: a line each."""

    row: int
    prompt: str
    uri: str
    about: str
    answers: tuple[Answer, ...]
    verdict: str
    num_atoms: str
    skills: str

    @property
    def what(self) -> str:
        """For those who do not see it."""
        right = sum(one.is_right for one in self.answers)
        return f"Image of row {self.row}, {right} of {len(self.answers)} answers as expected"


def render_page(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> bytes:
    """HTML without anything from elsewhere. files: of the lines, by their `filename`."""
    shown = [_scored(line, files[line["filename"]]) for line in lines[:MAX_PICTURES]]
    skills = sorted({skill for one in shown for skill in one.skills.split("\n")})
    counts = sorted({one.num_atoms for one in shown}, key=int)
    return render(
        "geneval2.html.j2",
        name=f"GenEval 2: Soft-TIFA {summary['soft_tifa_gm'][0]:.1f}",
        summary=summary,
        tables=[
            ("Soft-TIFA, 95 %", _rows({"GM": summary["soft_tifa_gm"], "AM": summary["soft_tifa_am"]})),
            ("AM by skill", _rows(summary["am_by_skill"])),
            ("GM by atoms", _rows(summary["gm_by_atom_count"])),
        ],
        pictures=shown,
        num_more=max(0, len(lines) - MAX_PICTURES),
        filters=[
            as_filter("verdict", "Answers", {"right": "all as expected", "wrong": "some are not"}),
            as_filter("skill", "Skill", {skill: skill for skill in skills}),
            as_filter("atoms", "Atoms", {count: count for count in counts}),
        ],
        words=["judge", "GM", "AM", "atoms", "95 %"],
    )


def _rows(scores: Mapping[str, Sequence[float | None]]) -> list[tuple[str, str]]:
    return [(name, Interval.from_list(found).shown(".1f")) for name, found in scores.items()]


def _scored(line: Mapping[str, Any], file: Path) -> Scored:
    answers = tuple(Answer(one["question"], one["answer"], one["probability"]) for one in line["questions"])
    return Scored(
        line["row"],
        line["prompt"],
        data_uri(read_file(file, MAX_IMAGE_BYTES), PICTURE_PX),
        f"row {line['row']}, {line['atom_count']} atoms, GM {100 * line['soft_tifa_gm']:.0f}, "
        f"AM {100 * line['soft_tifa_am']:.0f}; {line['filename']}",
        answers,
        "right" if all(one.is_right for one in answers) else "wrong",
        str(line["atom_count"]),
        "\n".join(sorted({one["skill"] or "no skill" for one in line["questions"]})),
    )
