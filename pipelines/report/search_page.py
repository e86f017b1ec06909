"""A search's page: the curve of score against budget, the scores by tag, and filmstrips of searches."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from inference.judges.intervals import Interval
from inference.requirements.atoms import HOLDS, atoms_of, failing
from pipelines.report.drawn_elsewhere import NOT_IDENTICAL, servers_that_draw
from pipelines.report.pictures import data_uri
from pipelines.restarts import RESTARTS, restarts_in_words
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from schemas.records import AtomValue, Candidate, PromptRecord, PromptRow, SearchStep

NUM_FILMSTRIPS = 48
STRIP_PX = 96
MAX_FAILING = 4
"""Requirements that are named below an image which fails them; all of them open with a click."""


def render_page(folder: RunFolder, config: SearchJobConfig, summary: dict[str, Any], films: Sequence[str]) -> str:
    """HTML: the curve, the scores by tag, and filmstrips of searches."""
    name = html.escape(folder.storage.uri.rstrip("/").rpartition("/")[2])
    judged = summary["judge"] is not None
    by_whom = f"judged by {html.escape(summary['judge'])}" if judged else "judged by nobody"
    left_out = f", {summary['num_not_judged']} not judged" if judged else ""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_CSS}</style>
<h1>{name}</h1>
<p>{html.escape(config.search.strategy)}, width {config.search.width}, depth {config.search.depth}, chosen by
{html.escape(" and ".join(config.tools.verifier.kinds))}, {by_whom}; {summary["num_searches"]} searches,
{summary["num_unfinished"]} unfinished{left_out}.</p>
{"" if judged else f"<p class=note>{_NOBODY}</p>"}
{f"<p>{NOT_IDENTICAL}</p>" if servers_that_draw(config) else ""}
{_restarts(summary["restarts"])}
{_curve(summary)}
<div class=wide>{_table(summary)}</div>
<h2>Searches</h2>
<p>Every image of a search, round by round. {_FRAMES if judged else _ONE_FRAME} Below each: the verifier's score, how
far the image meets each requirement where a verifier checks them, and how it came about.</p>
{"".join(films)}</html>"""


_NOBODY = (
    "Nobody judged these images. The figures are the verifier's scores of what it chose itself: they say which image "
    "it prefers, not how many are right."
)
_FRAMES = (
    'The frame says what the judge saw: <b class="ok">right</b> or <b class="no">wrong</b>; the thick one is delivered.'
)
_ONE_FRAME = "The thick frame is delivered."


def _table(summary: dict[str, Any]) -> str:
    """Scores by budget and tag."""
    judged, rows = summary["judge"] is not None, summary["budgets"]
    by_tag, totals = ("by_tag_intervals", ["score", "best_there_was"]) if judged else (_BY_TAG, ["verifier_score"])
    heads = ["score, 95 %", "best there was"] if judged else ["verifier's score, 95 %"]
    if "soft_tifa_gm" in rows[-1]:
        totals, heads = [*totals, "soft_tifa_gm"], [*heads, "Soft-TIFA GM"]
    tags = list(rows[-1][by_tag])
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ["budget", *tags, *heads])
    body = "".join(
        f"<tr><td>{row['budget']}</td>"
        + "".join(f"<td>{Interval(*found)}</td>" for found in (row[by_tag][tag] for tag in tags))
        + "".join(f"<td>{Interval(*row[name])}</td>" for name in totals)
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


_BY_TAG = "verifier_score_by_tag"
_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1c1c1e;background:#fff}
h1,h3{overflow-wrap:anywhere}h3{white-space:pre-wrap}.note{border-left:4px solid #d08700;padding:.3rem .8rem}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
.wide{overflow-x:auto}svg{max-width:100%;height:auto}figure{margin:1rem 0}
.strip{display:flex;gap:.5rem;overflow-x:auto;padding:.3rem 0 1rem}.draft{flex:0 0 104px;font-size:11px}
.draft.known{flex-basis:160px}.draft ul{list-style:none;margin:.3rem 0 0;padding:0}.draft li{margin-top:.2rem}
.atoms summary{cursor:pointer;list-style:none;display:flex;flex-wrap:wrap;align-items:center;gap:3px;margin-top:.4rem}
.atoms summary::-webkit-details-marker{display:none}.atoms summary::after{content:"▸";opacity:.6}
.atoms[open] summary::after{content:"▾"}.atoms[open]+.fails{display:none}
.atoms i{width:8px;height:8px;border-radius:2px;background:#2a8f4a}
.atoms i.no{background:none;box-shadow:inset 0 0 0 2px #c33}
.draft data{float:right;margin-left:.4rem;font-variant-numeric:tabular-nums}
.draft small{display:block;font-size:inherit;opacity:.75}
.draft img{width:96px;height:auto;image-rendering:pixelated;border:2px solid #c33;display:block}
.draft.right img{border-color:#2a8f4a}.draft.unjudged img{border-color:#999}
.draft.chosen img{border-width:6px;margin:-4px}
.draft p,.draft li{overflow-wrap:anywhere}.draft p{margin:.4rem 0 0}h3{margin:1rem 0 .2rem;font-size:15px}
.asked,.why{font-size:13px;margin:.1rem 0;overflow-wrap:anywhere}.why{color:#888;white-space:pre-line}
.ok{color:#2a8f4a}.no{color:#c33}
@media (max-width:700px){.wide td,.wide th{white-space:nowrap}}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}td,th{border-color:#444}}
"""

SOURCES = {
    "file": "as its file says",
    "grammar": "as its words say",
    "vlm": "as a VLM reads it",
    "fallback": "as a whole alone",
}


class Filmstrips:
    """The first searches of each outcome, as HTML."""

    def __init__(self) -> None:
        self._kept: dict[int, list[str]] = {}

    def add(self, row: PromptRow, chosen: int) -> None:
        """row: a finished search, with images. chosen: the image that is delivered."""
        kept = self._kept.setdefault(_outcome(row, chosen), [])
        if len(kept) < NUM_FILMSTRIPS:
            kept.append(_filmstrip(row, chosen))

    def by_turns(self) -> list[str]:
        """One of each outcome in turn, `NUM_FILMSTRIPS` in all."""
        columns = [self._kept[outcome] for outcome in sorted(self._kept)]
        return [film for turn in zip_longest(*columns) for film in turn if film][:NUM_FILMSTRIPS]


def _is_right(candidate: Candidate) -> bool:
    return candidate.check is not None and candidate.check.correct


def _outcome(row: PromptRow, chosen: int) -> int:
    """0: put right by the search. 1: wrong, though there was a right one. 2: never right. 3: right from the start. 4:
    not judged."""
    if row.candidates[chosen].check is None:
        return 4
    if _is_right(row.candidates[chosen]):
        return 3 if _is_right(row.candidates[0]) else 0
    return 1 if any(_is_right(c) for c in row.candidates) else 2


def _filmstrip(row: PromptRow, chosen: int) -> str:
    drafts = []
    for number, candidate in enumerate(row.candidates):
        step = candidate.search
        if step is None or candidate.image is None:
            continue
        outcome = " unjudged" if candidate.check is None else " right" if _is_right(candidate) else ""
        classes = "draft" + outcome + (" known" if step.atoms else "")
        classes += " chosen" if number == chosen else ""
        said = _atoms(step.atoms) + _way(step)
        if candidate.text != row.prompt.text:
            said += f"<p><i>{html.escape(candidate.text)}</i></p>"
        drafts.append(
            f'<div class="{classes}"><img alt="" src="{data_uri(candidate.image, STRIP_PX)}">'
            f"<p>image {candidate.index}, round {step.round}: {step.score:.2f}</p>{said}</div>"
        )
    delivered = row.candidates[chosen].check
    verdict = '<b class="ok">right</b>' if _is_right(row.candidates[chosen]) else '<b class="no">wrong</b>'
    if delivered is None:
        verdict = "not judged"
    reasons = [] if delivered is None else delivered.reasons
    missing = f"<p class=why>{html.escape('; '.join(reasons))}</p>" if reasons else ""
    heading = f"<h3>{html.escape(row.prompt.text)}: {verdict}</h3>{_requirements(row.prompt)}{missing}"
    return f"{heading}<div class=strip>{''.join(drafts)}</div>"


def _requirements(prompt: PromptRecord) -> str:
    """What a prompt asks for, piece by piece, where that comes from, and why it is no more."""
    atoms = atoms_of(prompt)
    if not atoms:
        return ""
    answers = {atom.text: atom.question.answer for atom in atoms if atom.question and atom.question.answer != "Yes"}
    pieces = [f"{atom.text} ({answers[atom.text]})" if atom.text in answers else atom.text for atom in atoms]
    source = SOURCES.get(prompt.requirements_from or "", "")
    note = f" ({prompt.requirements_note})" if prompt.requirements_note else ""
    said = f"Asked for{f', {source}' if source else ''}{note}: {'; '.join(pieces)}"
    return f'<p class="asked" dir="auto">{html.escape(said)}</p>'


def _way(step: SearchStep) -> str:
    """How an image came about."""
    if step.parent is not None:
        return f"<p>from image {step.parent}: {html.escape(step.reflection or '')}</p>"
    if step.restart in RESTARTS:
        return f"<p>drawn afresh: the image before {RESTARTS[step.restart]}</p>"
    return ""


def _atoms(atoms: Sequence[AtomValue]) -> str:
    """A mark for each requirement, in the prompt's order, which opens to all of them; and those that fail, the worst
    first, each with how it would be mended."""
    if not atoms:
        return ""
    failed = failing(atoms)
    marks = "".join(
        f'<i{" class=no" if atom.value < HOLDS else ""} title="{html.escape(f"{atom.text}: {atom.value:.2f}")}"></i>'
        for atom in atoms
    )
    every, worst = ("".join(map(_atom, some)) for some in (atoms, failed[:MAX_FAILING]))
    more = f"<li>and {len(failed) - MAX_FAILING} more</li>" if len(failed) > MAX_FAILING else ""
    held = f"{len(atoms) - len(failed)} of {len(atoms)} hold"
    return (
        f"<details class=atoms><summary>{marks} {held}</summary><ul>{every}</ul></details>"
        f"{f'<ul class=fails>{worst}{more}</ul>' if failed else ''}"
    )


def _atom(atom: AtomValue) -> str:
    side = "no" if atom.value < HOLDS else "ok"
    mended = f"<small>\u2192 {html.escape(atom.mend)}</small>" if atom.mend and side == "no" else ""
    return f'<li><data class="{side}">{atom.value:.2f}</data>{html.escape(atom.text)}{mended}</li>'


def _restarts(restarts: dict[str, int]) -> str:
    if not restarts:
        return ""
    return f"<p>Chains started afresh: {html.escape(restarts_in_words(restarts))}.</p>"


def _curve(summary: dict[str, Any]) -> str:
    """An SVG of score against budget (each doubling one step): of judged searches with the bound of the best that was
    there; where nobody judged, of the verifier's score, on its own scale."""
    rows, judged = summary["budgets"], summary["judge"] is not None
    if not summary["num_searches"] or len(rows) < 2:
        return ""
    width, height, left, bottom = 520, 240, 44, 28
    step = (width - left - 12) / (len(rows) - 1)
    curves = (("best_there_was", "#999"), ("score", "#2563eb")) if judged else (("verifier_score", "#d08700"),)
    ends = [value for row in rows for name, _ in curves for value in row[name]]
    low, high = (0.0, 1.0) if judged else (min(ends), max(max(ends), min(ends) + 1e-6))

    def points(name: str) -> list[tuple[float, Interval]]:
        return [(left + i * step, Interval(*row[name])) for i, row in enumerate(rows)]

    def y(value: float) -> float:
        return 10 + (high - value) / (high - low) * (height - bottom - 10)

    lines = []
    for name, color in curves:
        path = " ".join(f"{x:.1f},{y(i.value):.1f}" for x, i in points(name))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for x, i in points(name):
            lines.append(f'<circle cx="{x:.1f}" cy="{y(i.value):.1f}" r="3" fill="{color}"/>')
            lines.append(f'<path d="M{x:.1f},{y(i.low):.1f}V{y(i.high):.1f}" stroke="{color}"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = low + share * (high - low)
        lines.append(f'<text x="4" y="{y(value) + 4:.1f}">{value:.2f}</text>')
        lines.append(f'<path d="M{left - 4},{y(value):.1f}H{width}" stroke="#8884" />')
    for i, row in enumerate(rows):
        lines.append(f'<text x="{left + i * step - 6:.1f}" y="{height - 8}">{row["budget"]}</text>')
    said = "Score against images a search: delivered (blue), best there was (grey)"
    said = said if judged else "The verifier's own score against images a search; nobody judged"
    return (
        f'<figure><svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-size="11" '
        f'fill="currentColor">{"".join(lines)}</svg><figcaption>{said}</figcaption></figure>'
    )
