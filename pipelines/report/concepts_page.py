"""The page of distilled concepts: what became of each, its questions, and its images before and after."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.report.pictures import data_uri
from pipelines.report.shell import as_filter, render
from schemas.errors import CorruptDataError
from trainers.concept_card import CARD, CURVE, GRID

GRID_PX = 1200
CURVE_PX = 500


@dataclass(frozen=True)
class ShownConcept:
    """One concept. status: what became of it. detail: what went wrong. questions: with the wanted answers. before and
    after: their probability. grid, curve: data URIs, None where there is no such picture."""

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

    @property
    def grid_says(self) -> str:
        """For those who do not see it."""
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
    )


def render_page(name: str, concepts: Sequence[ShownConcept]) -> bytes:
    """HTML without anything from elsewhere."""
    statuses = list(dict.fromkeys(one.status for one in concepts))
    return render(
        "concepts.html.j2",
        name=name,
        concepts=concepts,
        filters=[as_filter("status", "Became", {status: status for status in statuses})],
        words=["learnt", "not learnt"],
    )


def _picture(file: str, max_px: int, read: Callable[[str], bytes]) -> str | None:
    try:
        return data_uri(read(file), max_px)
    except (FileNotFoundError, CorruptDataError):
        return None
