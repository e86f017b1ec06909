"""The page of distilled concepts: what became of each, its questions, and its images before and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.report.pictures import data_uri
from pipelines.report.shell import as_filter, render
from schemas.errors import CorruptDataError
from trainers.concept_card import CARD, CURVE, GRID

GRID_PX = 1200
CURVE_PX = 500


@dataclass(frozen=True)
class ShownConcept:
    """One concept. status: what became of it. detail: what went wrong. questions: with the wanted answers. before and
    after: their probability. grid, curve: data URIs, None where there is no such picture. referee: what a second VLM
    said, for people; empty where none was asked."""

    name: str
    status: str
    detail: str = ""
    prompt: str = ""
    questions: tuple[tuple[str, str], ...] = ()
    before: float | None = None
    after: float | None = None
    steps: int = 0
    grid: str | None = None
    curve: str | None = None
    referee: str = ""
    also: tuple[tuple[str, float, float], ...] = ()

    @property
    def grid_says(self) -> str:
        """For those who do not see it."""
        if self.status == "fooled":
            return f"{self.name}: the same seeds before (above), after, and when the VLM was fooled (below)"
        return f"{self.name}: the same seeds before (above) and after (below)"

    @property
    def curve_says(self) -> str:
        """For those who do not see it."""
        return (
            f"{self.name}: the answers' probability over {self.steps} steps, {self.before:.2f} before, "
            f"{self.after:.2f} after"
        )


def shown_concept(name: str, status: str, detail: str, read: Callable[[str], bytes]) -> ShownConcept:
    """A concept that is finished. read: a file of its folder, by name; FileNotFoundError."""
    card = json.loads(read(CARD))
    return ShownConcept(
        name,
        status,
        detail,
        card["prompt"],
        tuple((one["question"], one["answer"]) for one in card["questions"]),
        card["probability_before"],
        card["probability_after"],
        card["steps"],
        _picture(GRID, GRID_PX, read),
        _picture(CURVE, CURVE_PX, read),
        referee_says(card),
        tuple((o["prompt"], o["probability_before"], o["probability_after"]) for o in card.get("also", [])),
    )


def referee_says(card: dict[str, Any]) -> str:
    """What the card's referee found, of the question over which it and the teacher parted, or the mean of all."""
    referee = card.get("referee")
    if not referee or not referee["looks"]:
        return ""
    over, looks = referee.get("parted_over"), referee["looks"]

    def of(look: dict[str, Any]) -> str:
        told, seen = (fmean(look[who]) if over is None else look[who][over] for who in ("teacher", "referee"))
        return f"{told:.2f} and {seen:.2f}"

    what = "The wanted answers" if over is None else f"The wanted answer to {card['questions'][over]['question']!r}"
    ends = f"before, {of(looks[-1])} after {looks[-1]['step']} steps"
    kept = f" Kept is the LoRA of step {referee['kept_step']}." if over is not None else ""
    return f"{what}, by the VLM and by the referee {referee['model']}: {of(looks[0])} {ends}.{kept}"


def render_page(name: str, concepts: Sequence[ShownConcept]) -> bytes:
    """HTML without anything from elsewhere."""
    statuses = list(dict.fromkeys(one.status for one in concepts))
    return render(
        "concepts.html.j2",
        name=name,
        concepts=concepts,
        filters=[as_filter("status", "Became", {status: status for status in statuses})],
        words=["learnt", "not learnt", *(["fooled"] if "fooled" in statuses else [])],
    )


def _picture(file: str, max_px: int, read: Callable[[str], bytes]) -> str | None:
    try:
        return data_uri(read(file), max_px)
    except (FileNotFoundError, CorruptDataError):
        return None
