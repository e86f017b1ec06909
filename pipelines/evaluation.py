"""What a search found: scores by budget and tag with intervals, GenEval's own files, and a page of filmstrips.

    evaluation/results.jsonl     one line a delivered image, in GenEval's fields
    evaluation/summary.json      scores by budget and by tag, cost, the oracle's bound
    evaluation/geneval/00000/    metadata.jsonl and samples/0000.png: what GenEval's own scorer reads
    evaluation/index.html        curve and filmstrips

All of it follows from the run's blocks and can be written again at any time.
"""

from __future__ import annotations

import html
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from inference.judges.geneval_scoring import score_by_tag
from inference.judges.intervals import Interval, mean_over_tags
from pipelines.jobs import resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from schemas.errors import CorruptDataError
from schemas.records import Candidate, Check, Cost, PromptRow

FOLDER = "evaluation"
NUM_FILMSTRIPS = 48
STRIP_PX = 96


@dataclass(frozen=True)
class Searched:
    """One finished search. base: its prompt's id without the number of the delivered image."""

    row: PromptRow
    base: str

    @property
    def tag(self) -> str:
        return self.row.prompt.tag or ""

    def chosen(self, budget: int) -> Candidate:
        """The draft that the verifier likes best among the first `budget`; of equal ones the first."""
        return max(self.row.candidates[:budget], key=lambda c: (c.search.score if c.search else 0.0, -c.index))

    def is_right(self, budget: int) -> bool:
        """The judge's verdict on what is delivered."""
        check = self.chosen(budget).check
        return check is not None and check.correct

    def any_right(self, budget: int) -> bool:
        """Whether there was a right image to choose."""
        return any(c.check is not None and c.check.correct for c in self.row.candidates[:budget])


@dataclass
class Evaluation:
    """Of all finished searches of a run."""

    searches: list[Searched] = field(default_factory=list)
    num_unfinished: int = 0
    cost: Cost = field(default_factory=Cost)

    def score(self, budget: int, *, oracle: bool = False) -> Interval:
        """GenEval's overall score of what is delivered at a budget; of the best that was there with `oracle`."""
        hits = [float(s.any_right(budget) if oracle else s.is_right(budget)) for s in self.searches]
        return mean_over_tags(hits, [s.tag for s in self.searches], [s.row.prompt.text for s in self.searches])

    def by_tag(self, budget: int) -> dict[str, float]:
        """Shares by tag, and `overall`."""
        return score_by_tag([s.tag for s in self.searches], [s.is_right(budget) for s in self.searches])


def budgets_of(config: SearchJobConfig) -> list[int]:
    """1, and after each doubling of the rounds, the images so far."""
    rounds, found = 1, [1]
    while rounds < config.search.depth:
        found.append(rounds * config.search.width)
        rounds *= 2
    return list(dict.fromkeys([*found, config.search.budget]))


def read_searches(
    folder: RunFolder, config: SearchJobConfig, *, with_images: bool = False
) -> Iterator[Searched | None]:
    """Every search of the run in order; None for one that is not finished, or was given up."""
    (steps,) = resolve_chains(folder, config).values()
    last = steps[-1]
    for unit in folder.units():
        try:
            rows = folder.read_block(last.name, last.key, unit)[1]
            for step in steps if with_images else ():
                if step.link.stage.makes_images:
                    rows = folder.with_images(rows, step.name, step.key, unit)
        except (FileNotFoundError, CorruptDataError):
            yield from [None] * len(folder.prompts(unit))
            continue
        for row in rows:
            yield Searched(row, _base(row.prompt.prompt_id, config)) if row.active and row.candidates else None


def _base(prompt_id: str, config: SearchJobConfig) -> str:
    return prompt_id if config.images_per_prompt == 1 else prompt_id.rpartition("-")[0]


def evaluate(folder: RunFolder, config: SearchJobConfig) -> Evaluation:
    """Count what the run's blocks say."""
    found = Evaluation()
    for one in read_searches(folder, config):
        if one is None:
            found.num_unfinished += 1
        else:
            found.searches.append(one)
    for step in {(s.name, s.key): s for s in next(iter(resolve_chains(folder, config).values()))}.values():
        for unit in folder.committed_units(step.name, step.key):
            found.cost += folder.read_footer(step.name, step.key, unit).cost
    return found


def write_evaluation(folder: RunFolder, config: SearchJobConfig) -> str:
    """Write `evaluation/`. Returns the page's path or URI."""
    found, storage = evaluate(folder, config), folder.storage
    budgets = budgets_of(config)
    summary = summarise(found, config, budgets)
    folder.write_json(f"{FOLDER}/summary.json", summary)
    lines: list[str] = []
    films: dict[int, list[str]] = defaultdict(list)
    numbers: dict[str, int] = {}
    samples: dict[str, int] = defaultdict(int)
    for one in read_searches(folder, config, with_images=True):
        if one is None:
            continue
        number = numbers.setdefault(one.base, len(numbers))
        delivered, sample = one.chosen(config.search.budget), samples[one.base]
        samples[one.base] += 1
        name = f"geneval/{number:05d}/samples/{sample:04d}.png"
        storage.commit(f"{FOLDER}/{name}", delivered.image or b"")
        metadata = geneval_metadata(one.row)
        storage.commit(f"{FOLDER}/geneval/{number:05d}/metadata.jsonl", (json.dumps(metadata) + "\n").encode())
        line = result_line(name, one.tag, one.row.prompt.text, delivered.check, metadata)
        lines.append(json.dumps(line, ensure_ascii=False))
        shown = films[_outcome(one, config)]
        if len(shown) < NUM_FILMSTRIPS:
            shown.append(_filmstrip(one, config))
    storage.commit(f"{FOLDER}/results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    page = render_page(folder, config, summary, _by_turns(films))
    storage.commit(f"{FOLDER}/index.html", page.encode())
    for line in summary_lines(summary):
        print(line)
    return f"{storage.uri.rstrip('/')}/{FOLDER}/index.html"


def geneval_metadata(row: PromptRow) -> dict[str, Any]:
    """The prompt as a line of GenEval's evaluation_metadata.jsonl."""

    def plain(clause: Any) -> dict[str, Any]:
        said: dict[str, Any] = {"class": clause.class_name, "count": clause.count}
        if clause.color:
            said["color"] = clause.color
        if clause.relation:
            said["position"] = [clause.relation, clause.relative_to]
        return said

    prompt = row.prompt
    metadata: dict[str, Any] = {"tag": prompt.tag, "include": [plain(c) for c in prompt.include], "prompt": prompt.text}
    if prompt.exclude:
        metadata["exclude"] = [plain(c) for c in prompt.exclude]
    return metadata


def result_line(filename: str, tag: str, prompt: str, check: Check | None, metadata: dict[str, Any]) -> dict[str, Any]:
    """A line of results.jsonl in GenEval's fields."""
    return {
        "filename": filename,
        "tag": tag,
        "prompt": prompt,
        "correct": bool(check and check.correct),
        "reason": "\n".join(check.reasons) if check else "not judged",
        "metadata": json.dumps(metadata),
        "details": json.dumps(
            {
                name: [[*o.box, o.score] for o in check.objects if o.class_name == name]
                for name in dict.fromkeys(o.class_name for o in check.objects)
            }
            if check
            else {}
        ),
    }


def summarise(found: Evaluation, config: SearchJobConfig, budgets: Sequence[int]) -> dict[str, Any]:
    """`summary.json`."""
    rows = []
    for budget in budgets:
        score, bound = found.score(budget), found.score(budget, oracle=True)
        rows.append(
            {
                "budget": budget,
                "score": [score.value, score.low, score.high],
                "best_there_was": [bound.value, bound.low, bound.high],
                "by_tag": found.by_tag(budget),
            }
        )
    cost = {name: value for name, value in vars(found.cost).items() if value}
    return {
        "strategy": config.search.strategy,
        "verifier": list(config.tools.verifier.kinds),
        "width": config.search.width,
        "depth": config.search.depth,
        "num_searches": len(found.searches),
        "num_unfinished": found.num_unfinished,
        "judge": config.judge.judge.model,
        "budgets": rows,
        "cost": cost,
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """For the terminal."""
    yield (
        f"{summary['num_searches']} searches ({summary['num_unfinished']} unfinished), {summary['strategy']}, "
        f"chosen by {' and '.join(summary['verifier'])}, judged by {summary['judge']}"
    )
    yield "  budget  score [95 %]           best there was"
    for row in summary["budgets"]:
        score, bound = (Interval(*row[name]) for name in ("score", "best_there_was"))
        yield f"  {row['budget']:>6}  {score!s:<22} {bound}"
    last = summary["budgets"][-1]
    yield "  " + "  ".join(f"{tag} {value:.2f}" for tag, value in last["by_tag"].items())


# --- The page ---------------------------------------------------------------------------------------------------------


def render_page(folder: RunFolder, config: SearchJobConfig, summary: dict[str, Any], films: Sequence[str]) -> str:
    """HTML: the curve, the scores by tag, and filmstrips of searches."""
    name = html.escape(folder.storage.uri.rstrip("/").rpartition("/")[2])
    tags = list(summary["budgets"][-1]["by_tag"]) if summary["num_searches"] else []
    head = "".join(f"<th>{html.escape(tag)}</th>" for tag in tags)
    rows = "".join(
        f"<tr><td>{row['budget']}</td>"
        + "".join(f"<td>{row['by_tag'][tag]:.2f}</td>" for tag in tags)
        + f"<td>{Interval(*row['score'])}</td><td>{Interval(*row['best_there_was'])}</td></tr>"
        for row in summary["budgets"]
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_CSS}</style>
<h1>{name}</h1>
<p>{html.escape(config.search.strategy)}, width {config.search.width}, depth {config.search.depth}, chosen by
{html.escape(" and ".join(config.tools.verifier.kinds))}; {summary["num_searches"]} searches,
{summary["num_unfinished"]} unfinished.</p>
{_curve(summary)}
<table><tr><th>budget</th>{head}<th>score, 95 %</th><th>best there was</th></tr>{rows}</table>
<h2>Searches</h2>
<p>Every image of a search, round by round. The frame says what the judge saw: <b class="ok">right</b> or
<b class="no">wrong</b>; the thick one is delivered. Below each: the verifier's score, and what it was told.</p>
{"".join(films)}</html>"""


_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1200px;padding:0 1rem;color:#1c1c1e;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
.strip{display:flex;gap:.5rem;overflow-x:auto;padding:.3rem 0 1rem}.draft{flex:0 0 104px;font-size:11px}
.draft img{width:96px;height:96px;image-rendering:pixelated;border:2px solid #c33;display:block}
.draft.right img{border-color:#2a8f4a}.draft.chosen img{border-width:6px;margin:-4px}
.draft p{margin:.4rem 0 0;overflow-wrap:anywhere}h3{margin:1rem 0 .2rem;font-size:15px}.ok{color:#2a8f4a}.no{color:#c33}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}td,th{border-color:#444}}
"""


def _filmstrip(one: Searched, config: SearchJobConfig) -> str:
    from pipelines.report.pictures import data_uri

    delivered = one.chosen(config.search.budget).index
    drafts = []
    for candidate in one.row.candidates:
        step = candidate.search
        if step is None or candidate.image is None:
            continue
        right = candidate.check is not None and candidate.check.correct
        classes = "draft" + (" right" if right else "") + (" chosen" if candidate.index == delivered else "")
        said = f"<p>{html.escape(step.reflection)}</p>" if step.reflection else ""
        if candidate.text != one.row.prompt.text:
            said += f"<p><i>{html.escape(candidate.text)}</i></p>"
        drafts.append(
            f'<div class="{classes}"><img alt="" src="{data_uri(candidate.image, STRIP_PX)}">'
            f"<p>round {step.round}, {step.score:.2f}</p>{said}</div>"
        )
    verdict = '<b class="ok">right</b>' if one.is_right(config.search.budget) else '<b class="no">wrong</b>'
    return f"<h3>{html.escape(one.row.prompt.text)}: {verdict}</h3><div class=strip>{''.join(drafts)}</div>"


def _outcome(one: Searched, config: SearchJobConfig) -> int:
    """0: put right by the search. 1: wrong, though there was a right one. 2: never right. 3: right from the start."""
    if one.is_right(config.search.budget):
        return 3 if one.is_right(1) else 0
    return 1 if one.any_right(config.search.budget) else 2


def _by_turns(films: dict[int, list[str]]) -> list[str]:
    """One of each outcome in turn, `NUM_FILMSTRIPS` in all."""
    turns = [film for turn in zip_longest(*(films[kind] for kind in sorted(films))) for film in turn if film]
    return turns[:NUM_FILMSTRIPS]


def _curve(summary: dict[str, Any]) -> str:
    """An SVG of score against budget (each doubling one step), with the bound of the best that was there."""
    rows = summary["budgets"]
    if not summary["num_searches"] or len(rows) < 2:
        return ""
    width, height, left, bottom = 520, 240, 44, 28
    step = (width - left - 12) / (len(rows) - 1)

    def points(name: str) -> list[tuple[float, Interval]]:
        return [(left + i * step, Interval(*row[name])) for i, row in enumerate(rows)]

    def y(share: float) -> float:
        return 10 + (1 - share) * (height - bottom - 10)

    lines = []
    for name, color in (("best_there_was", "#999"), ("score", "#2563eb")):
        path = " ".join(f"{x:.1f},{y(i.value):.1f}" for x, i in points(name))
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for x, i in points(name):
            lines.append(f'<circle cx="{x:.1f}" cy="{y(i.value):.1f}" r="3" fill="{color}"/>')
            lines.append(f'<path d="M{x:.1f},{y(i.low):.1f}V{y(i.high):.1f}" stroke="{color}"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        lines.append(f'<text x="4" y="{y(share) + 4:.1f}">{share:.2f}</text>')
        lines.append(f'<path d="M{left - 4},{y(share):.1f}H{width}" stroke="#8884" />')
    for i, row in enumerate(rows):
        lines.append(f'<text x="{left + i * step - 6:.1f}" y="{height - 8}">{row["budget"]}</text>')
    return (
        f'<figure><svg width="{width}" height="{height}" font-size="11" fill="currentColor">{"".join(lines)}</svg>'
        "<figcaption>Score against images a search: delivered (blue), best there was (grey)</figcaption></figure>"
    )
