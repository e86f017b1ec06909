"""A search's page: the curve of score against budget, the scores by tag, and filmstrips of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from inference.judges.intervals import Interval
from inference.requirements.atoms import atoms_of, failing
from pipelines.report.chart import Chart, Curve
from pipelines.report.drawn_elsewhere import NOT_IDENTICAL, servers_that_draw
from pipelines.report.pictures import data_uri
from pipelines.report.shell import as_filter, render
from pipelines.restarts import RESTARTS, restarts_in_words
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from schemas.records import AtomValue, Candidate, PromptRecord, PromptRow, SearchStep

NUM_FILMSTRIPS = 48
STRIP_PX = 192
MAX_FAILING = 4
"""Requirements that are named below an image which fails them; all of them open with a click."""
SOURCES = {
    "file": "as its file says",
    "grammar": "as its words say",
    "vlm": "as a VLM reads it",
    "fallback": "as a whole alone",
}
OUTCOMES = {
    "mended": "put right by the search",
    "missed": "wrong, though one image was right",
    "never": "never right",
    "at-once": "right from the start",
    "unjudged": "not judged",
}
"""What became of a search, by the judge; in this order one of each is shown in turn."""
_WORDS = ["verifier", "budget", "round", "chain", "reflection", "drawn afresh", "requirement", "tag", "no tag", "95 %"]


@dataclass(frozen=True)
class Shot:
    """One image of a search. verdict: right, wrong or unjudged. way: how it came about. text: what it was drawn from,
    where that is not the prompt. atoms: in the prompt's order; failing: the worst first."""

    number: int
    round: int
    score: float
    uri: str
    verdict: str
    is_chosen: bool
    way: str
    text: str
    atoms: tuple[AtomValue, ...]
    failing: tuple[AtomValue, ...]

    @property
    def what(self) -> str:
        """For those who do not see it."""
        said = {"right": ", right", "wrong": ", wrong", "unjudged": ""}[self.verdict]
        return f"Image {self.number}, round {self.round}{said}{', delivered' if self.is_chosen else ''}"


@dataclass(frozen=True)
class Film:
    """One search. verdict: of what is delivered. asked: what the prompt requires. missing: what the judge missed."""

    prompt: str
    tag: str
    outcome: str
    verdict: str
    asked: str
    missing: str
    shots: tuple[Shot, ...]


def render_page(folder: RunFolder, config: SearchJobConfig, summary: dict[str, Any], films: Sequence[Film]) -> bytes:
    """HTML: the curve, the scores by tag, and filmstrips of searches."""
    is_judged = summary["judge"] is not None
    tags = sorted({film.tag for film in films})
    outcomes = {name: words for name, words in OUTCOMES.items() if any(film.outcome == name for film in films)}
    return render(
        "search.html.j2",
        name=folder.storage.uri.rstrip("/").rpartition("/")[2],
        config=config,
        verifier=" and ".join(config.tools.verifier.kinds),
        summary=summary,
        is_judged=is_judged,
        elsewhere=NOT_IDENTICAL if servers_that_draw(config) else "",
        restarts=restarts_in_words(summary["restarts"]) if summary["restarts"] else "",
        table=_table(summary),
        chart=_chart(summary),
        films=films,
        max_failing=MAX_FAILING,
        filters=[as_filter("outcome", "Outcome", outcomes), as_filter("tag", "Tag", {tag: tag for tag in tags})],
        words=[*(["judge", "best there was"] if is_judged else []), *_WORDS],
    )


@dataclass(frozen=True)
class Table:
    """Cells of the scores by budget and tag."""

    heads: list[str]
    rows: list[list[str]]


def _table(summary: dict[str, Any]) -> Table:
    judged, rows = summary["judge"] is not None, summary["budgets"]
    by_tag, totals = ("by_tag_intervals", ["score", "best_there_was"]) if judged else (_BY_TAG, ["verifier_score"])
    heads = ["score, 95 %", "best there was"] if judged else ["verifier's score, 95 %"]
    if "soft_tifa_gm" in rows[-1]:
        totals, heads = [*totals, "soft_tifa_gm"], [*heads, "Soft-TIFA GM"]
    tags = list(rows[-1][by_tag])

    def cells(row: dict[str, Any]) -> list[str]:
        found = [row[by_tag][tag] for tag in tags] + [row[name] for name in totals]
        return [str(row["budget"]), *(str(Interval.from_list(one)) for one in found)]

    return Table(["budget", *tags, *heads], [cells(row) for row in rows])


_BY_TAG = "verifier_score_by_tag"


class Filmstrips:
    """The first searches of each outcome."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Film]] = {name: [] for name in OUTCOMES}

    def add(self, row: PromptRow, chosen: int) -> None:
        """row: a finished search, with images. chosen: the image that is delivered."""
        outcome = _outcome(row, chosen)
        if len(self._kept[outcome]) < NUM_FILMSTRIPS:
            self._kept[outcome].append(_film(row, chosen, outcome))

    def by_turns(self) -> list[Film]:
        """One of each outcome in turn, `NUM_FILMSTRIPS` in all."""
        return [film for turn in zip_longest(*self._kept.values()) for film in turn if film][:NUM_FILMSTRIPS]


def _is_right(candidate: Candidate) -> bool:
    return candidate.check is not None and candidate.check.correct


def _outcome(row: PromptRow, chosen: int) -> str:
    """One of `OUTCOMES`."""
    if row.candidates[chosen].check is None:
        return "unjudged"
    if _is_right(row.candidates[chosen]):
        return "at-once" if _is_right(row.candidates[0]) else "mended"
    return "missed" if any(_is_right(c) for c in row.candidates) else "never"


def _film(row: PromptRow, chosen: int, outcome: str) -> Film:
    shots = (
        _shot(candidate, candidate.search, row.prompt.text, number == chosen)
        for number, candidate in enumerate(row.candidates)
        if candidate.search is not None and candidate.image is not None
    )
    delivered = row.candidates[chosen].check
    return Film(
        row.prompt.text,
        row.prompt.tag or "no tag",
        outcome,
        {"unjudged": "not judged", "mended": "right", "at-once": "right"}.get(outcome, "wrong"),
        _requirements(row.prompt),
        "; ".join(delivered.reasons) if delivered else "",
        tuple(shots),
    )


def _shot(candidate: Candidate, step: SearchStep, prompt: str, is_chosen: bool) -> Shot:
    return Shot(
        candidate.index,
        step.round,
        step.score,
        data_uri(candidate.image or b"", STRIP_PX),
        "unjudged" if candidate.check is None else "right" if _is_right(candidate) else "wrong",
        is_chosen,
        _way(step),
        candidate.text if candidate.text != prompt else "",
        step.atoms,
        tuple(failing(step.atoms)),
    )


def _requirements(prompt: PromptRecord) -> str:
    """What a prompt asks for, piece by piece, where that comes from, and why it is no more."""
    atoms = atoms_of(prompt)
    if not atoms:
        return ""
    answers = {atom.text: atom.question.answer for atom in atoms if atom.question and atom.question.answer != "Yes"}
    pieces = [f"{atom.text} ({answers[atom.text]})" if atom.text in answers else atom.text for atom in atoms]
    source = SOURCES.get(prompt.requirements_from or "", "")
    note = f" ({prompt.requirements_note})" if prompt.requirements_note else ""
    return f"Asked for{f', {source}' if source else ''}{note}: {'; '.join(pieces)}"


def _way(step: SearchStep) -> str:
    """How an image came about."""
    if step.parent is not None:
        return f"from image {step.parent}: {step.reflection or ''}"
    if step.restart in RESTARTS:
        return f"drawn afresh: the image before {RESTARTS[step.restart]}"
    return ""


def _chart(summary: dict[str, Any]) -> Chart | None:
    """Score against budget: of judged searches with the bound of the best that was there; where nobody judged, of the
    verifier's score, on its own scale."""
    rows, judged = summary["budgets"], summary["judge"] is not None
    if not summary["num_searches"] or len(rows) < 2:
        return None

    def curve(name: str, kind: str) -> Curve:
        return Curve(kind, [Interval.from_list(row[name]) for row in rows])

    budgets = [str(row["budget"]) for row in rows]
    if judged:
        said = "Score against images a search: delivered (strong), best there was (pale)"
        return Chart([curve("best_there_was", "pale"), curve("score", "strong")], budgets, said, (0.0, 1.0))
    said = "The verifier's own score against images a search; nobody judged"
    return Chart([curve("verifier_score", "strong")], budgets, said)
