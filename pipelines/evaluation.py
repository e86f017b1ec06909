"""What a search found: scores by budget and tag with intervals, GenEval's own files, and a page of filmstrips.

    evaluation/results.jsonl     one line a delivered image, in GenEval's fields
    evaluation/summary.json      scores by budget and by tag, cost, the oracle's bound
    evaluation/geneval/00000/    metadata.jsonl and samples/0000.png: what GenEval's own scorer reads
    evaluation/not_judged/       the same layout for prompts that the judge cannot judge, which no score counts
    evaluation/index.html        curve and filmstrips

All of it follows from the run's blocks and can be written again at any time.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.interfaces import rank_of
from inference.judges.geneval_scoring import score_by_tag
from inference.judges.intervals import Interval, intervals_by_tag, mean_over_tags
from inference.rewards.ensemble import relative_scores
from pipelines.jobs import resolve_chains
from pipelines.restarts import restarts_in_words
from pipelines.run_folder import RunFolder
from pipelines.search_cost import spent_by_round
from pipelines.search_job import SearchJobConfig
from schemas.errors import CorruptDataError
from schemas.records import Candidate, Check, Cost, PromptRow, Reward
from schemas.terminal import say

FOLDER = "evaluation"
JUDGE = "judge"  # as a chooser: the bound that no verifier passes


@dataclass(frozen=True)
class SearchResult:
    """One finished search, as numbers: small, so that many fit in memory. base: its prompt's id without the number of
    the delivered image. scores: the verifier's, one an image; right: the judge's verdicts; opinions: the scores of
    verifiers that had no say. rounds: of each image; corrected: whether it was drawn from another. parts: of each
    image, what its score is made of where it is relative to the others'. restarts: how many images were drawn afresh,
    and why."""

    base: str
    tag: str
    text: str
    scores: tuple[float, ...]
    right: tuple[bool, ...]
    rounds: tuple[int, ...]
    opinions: dict[str, tuple[float, ...]] = field(default_factory=dict)
    corrected: tuple[bool, ...] = ()
    parts: tuple[tuple[Reward, ...], ...] = ()
    restarts: dict[str, int] = field(default_factory=dict)

    def chosen(self, budget: int, by: str = "") -> int:
        """The image that the verifier likes best among the first `budget`; of equal ones the first. by: one of
        `opinions` who chooses in its place, or the judge."""
        scores = self.right if by == JUDGE else self.opinions[by] if by else self.scores
        if not by and all(self.parts[:budget]) and self.parts:
            scores = relative_scores(self.parts[:budget])
        return max(range(min(budget, len(scores))), key=lambda i: (rank_of(scores[i]), -i))

    def is_right(self, budget: int, by: str = "") -> bool:
        """The judge's verdict on what is delivered."""
        return self.right[self.chosen(budget, by)]


@dataclass
class Evaluation:
    """Of all finished searches of a run; num_not_judged: those whose prompt the judge cannot judge, which are in no
    other figure but the cost."""

    searches: list[SearchResult] = field(default_factory=list)
    num_unfinished: int = 0
    num_not_judged: int = 0
    cost: Cost = field(default_factory=Cost)

    def score(self, budget: int, by: str = "") -> Interval:
        """GenEval's overall score of what is delivered at a budget."""
        return score_of(self.searches, [float(s.is_right(budget, by)) for s in self.searches])

    def by_tag(self, budget: int, by: str = "") -> dict[str, float]:
        """Shares by tag, and `overall`."""
        return score_by_tag([s.tag for s in self.searches], [s.is_right(budget, by) for s in self.searches])

    def by_tag_intervals(self, budget: int, by: str = "") -> dict[str, Interval]:
        """Shares by tag with their intervals over texts."""
        hits = [float(s.is_right(budget, by)) for s in self.searches]
        return intervals_by_tag(hits, [s.tag for s in self.searches], [s.text for s in self.searches])


def score_of(searches: Sequence[SearchResult], values: Sequence[float]) -> Interval:
    """The mean over tags of one value a search, with its interval over texts."""
    return mean_over_tags(values, [s.tag for s in searches], [s.text for s in searches])


def is_judged(row: PromptRow) -> bool:
    """Whether the judge could judge a finished search."""
    return all(candidate.check is not None for candidate in row.candidates)


def searched(row: PromptRow, config: SearchJobConfig) -> SearchResult:
    """What the last block says of a finished search."""
    names = [reward.scorer for reward in row.candidates[0].rewards]
    columns = zip(*([r.value for r in c.rewards] for c in row.candidates), strict=True)
    return SearchResult(
        base_of(row.prompt.prompt_id, config),
        row.prompt.tag or "",
        row.prompt.text,
        tuple(c.search.score if c.search else 0.0 for c in row.candidates),
        tuple(c.check is not None and c.check.correct for c in row.candidates),
        tuple(c.search.round if c.search else 0 for c in row.candidates),
        dict(zip(names, columns, strict=True)) if names else {},
        tuple(c.search is not None and c.search.parent is not None for c in row.candidates),
        tuple(c.search.parts if c.search else () for c in row.candidates),
        dict(Counter(c.search.restart for c in row.candidates if c.search and c.search.restart)),
    )


def budgets_of(config: SearchJobConfig) -> list[int]:
    """1, and after each doubling of the rounds, the images so far."""
    rounds, found = 1, [1]
    while rounds < config.search.depth:
        found.append(rounds * config.search.width)
        rounds *= 2
    return list(dict.fromkeys([*found, config.search.budget]))


def read_rows(folder: RunFolder, config: SearchJobConfig, *, with_images: bool = False) -> Iterator[PromptRow | None]:
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
        yield from (row if row.active and row.candidates else None for row in rows)


def base_of(prompt_id: str, config: SearchJobConfig) -> str:
    """A prompt's id without the number of the delivered image."""
    return prompt_id if config.images_per_prompt == 1 else prompt_id.rpartition("-")[0]


def evaluate(folder: RunFolder, config: SearchJobConfig) -> Evaluation:
    """Count what the run's blocks say."""
    found = Evaluation()
    for row in read_rows(folder, config):
        if row is None:
            found.num_unfinished += 1
        elif not is_judged(row):
            found.num_not_judged += 1
        else:
            found.searches.append(searched(row, config))
    for step in {(s.name, s.key): s for s in next(iter(resolve_chains(folder, config).values()))}.values():
        for unit in folder.committed_units(step.name, step.key):
            found.cost += folder.read_footer(step.name, step.key, unit).cost
    return found


def write_evaluation(folder: RunFolder, config: SearchJobConfig) -> str:
    """Write `evaluation/`. Returns the page's path or URI."""
    from pipelines.report.search_page import Filmstrips, render_page

    found, storage = evaluate(folder, config), folder.storage
    budgets = budgets_of(config)
    summary = summarise(found, config, budgets) | {"spent": spending(folder, config, budgets)}
    folder.write_json(f"{FOLDER}/summary.json", summary)
    lines: list[str] = []
    films = Filmstrips()
    numbers: dict[str, int] = {}
    samples: dict[str, int] = defaultdict(int)
    for row in read_rows(folder, config, with_images=True):
        if row is None:
            continue
        one = searched(row, config)
        number = numbers.setdefault(one.base, len(numbers))
        chosen, sample = one.chosen(config.search.budget), samples[one.base]
        delivered = row.candidates[chosen]
        samples[one.base] += 1
        layout = "geneval" if is_judged(row) else "not_judged"
        name = f"{layout}/{number:05d}/samples/{sample:04d}.png"
        storage.commit(f"{FOLDER}/{name}", delivered.image or b"")
        metadata = geneval_metadata(row)
        storage.commit(f"{FOLDER}/{layout}/{number:05d}/metadata.jsonl", (json.dumps(metadata) + "\n").encode())
        if is_judged(row):
            line = result_line(name, one.tag, one.text, delivered.check, metadata) | atoms_entry(delivered)
            lines.append(json.dumps(line, ensure_ascii=False))
        films.add(row, chosen)
    storage.commit(f"{FOLDER}/results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    storage.commit(f"{FOLDER}/index.html", render_page(folder, config, summary, films.by_turns()).encode())
    for line in summary_lines(summary):
        say(line)
    return f"{storage.uri.rstrip('/')}/{FOLDER}/index.html"


def spending(folder: RunFolder, config: SearchJobConfig, budgets: Sequence[int]) -> list[dict[str, Any]]:
    """What all searches together spent up to each budget; a budget below one round costs the round."""
    rounds = spent_by_round(folder, config)
    found = []
    for budget in budgets:
        spent = next((r for r in rounds if r.images >= budget), None)
        if spent is not None:
            counted = {name: value for name, value in vars(spent.cost).items() if value}
            found.append({"budget": budget, "seconds": round(spent.seconds, 3), **counted})
    return found


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


def atoms_entry(delivered: Candidate) -> dict[str, Any]:
    """How far the answer meets each requirement, by a verifier that checks them: a field of its line; none without."""
    atoms = delivered.search.atoms if delivered.search else ()
    said = [{"kind": atom.kind, "text": atom.text, "value": round(atom.value, 4)} for atom in atoms]
    return {"atoms": said} if said else {}


def summarise(found: Evaluation, config: SearchJobConfig, budgets: Sequence[int]) -> dict[str, Any]:
    """`summary.json`."""
    rows = []
    for budget in budgets:
        score, bound = found.score(budget), found.score(budget, JUDGE)
        rows.append(
            {
                "budget": budget,
                "score": score.as_list(),
                "best_there_was": bound.as_list(),
                "by_tag": found.by_tag(budget),
                "by_tag_intervals": {t: i.as_list() for t, i in found.by_tag_intervals(budget).items()},
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
        "num_not_judged": found.num_not_judged,
        "judge": config.judge.judge.label,
        "restarts": dict(sum((Counter(s.restarts) for s in found.searches), Counter())),
        "budgets": rows,
        "cost": cost,
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """For the terminal."""
    yield (
        f"{summary['num_searches']} searches ({summary['num_unfinished']} unfinished), {summary['strategy']}, "
        f"chosen by {' and '.join(summary['verifier'])}, judged by {summary['judge']}"
    )
    if summary["num_not_judged"]:
        yield f"  {summary['num_not_judged']} more searches are not judged: the judge does not know what they ask for"
    if summary["restarts"]:
        yield f"  chains started afresh: {restarts_in_words(summary['restarts'])}"
    yield "  budget  score [95 %]           best there was"
    for row in summary["budgets"]:
        score, bound = (Interval(*row[name]) for name in ("score", "best_there_was"))
        yield f"  {row['budget']:>6}  {score!s:<22} {bound}"
    last = summary["budgets"][-1]
    for tag, found in last["by_tag_intervals"].items():
        yield f"  {tag:<14} {Interval(*found)}"
