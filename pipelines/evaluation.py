"""What a search found: scores by budget and tag with intervals, GenEval's own files, and a page of filmstrips.

    evaluation/results.jsonl     one line a delivered image, in GenEval's fields
    evaluation/summary.json      scores by budget and by tag, cost, the oracle's bound
    evaluation/geneval/00000/    metadata.jsonl and samples/0000.png: what GenEval's own scorer reads
    evaluation/free/             the same layout for prompts that are none of GenEval's: its scorer cannot read them
    evaluation/not_judged/       the same layout for prompts that the judge cannot judge, which no score counts
    evaluation/index.html        curve and filmstrips

Where nobody judges (`--judge.kind none`), the verifier's scores stand in all of these, and nothing is called right or
wrong. All of it follows from the run's blocks and can be written again at any time.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.interfaces import rank_of
from inference.judges.geneval_scoring import score_by_tag
from inference.judges.intervals import Interval, intervals_by_tag, mean_over_tags
from inference.requirements.clauses import as_entries
from inference.rewards.ensemble import relative_scores
from pipelines.jobs import resolve_chains
from pipelines.restarts import restarts_in_words
from pipelines.run_folder import RunFolder
from pipelines.search_cost import spent_by_round
from pipelines.search_job import SearchJobConfig
from schemas.errors import CorruptDataError
from schemas.records import Candidate, Check, Cost, PromptRecord, PromptRow, Reward
from schemas.terminal import say

FOLDER = "evaluation"
JUDGE = "judge"  # as a chooser: the bound that no verifier passes
NO_TAG = "no tag"
NOBODY_JUDGED = "nobody judged: the figures are the verifier's scores of what it chose itself"


@dataclass(frozen=True)
class SearchResult:
    """One finished search, as numbers: small, so that many fit in memory. base: its prompt's id without the number of
    the delivered image. scores: the verifier's, one an image; right: the judge's verdicts; opinions: the scores of
    verifiers that had no say. rounds: of each image; corrected: whether it was drawn from another. parts: of each
    image, what its score is made of where it is relative to the others'. restarts: how many images were drawn afresh,
    and why. judged: the judge's score of each image, in [0, 1]. Where nobody judged, `right` and `judged` are empty."""

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
    judged: tuple[float, ...] = ()

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
    other figure but the cost. is_judged: False where nobody judges: all searches are in, by the verifier's scores."""

    searches: list[SearchResult] = field(default_factory=list)
    num_unfinished: int = 0
    num_not_judged: int = 0
    cost: Cost = field(default_factory=Cost)
    is_judged: bool = True

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

    def mean(self, budget: int, value: Callable[[SearchResult, int], float]) -> Interval:
        """The mean over tags of something else about what is delivered. value: of a search and the chosen image."""
        return score_of(self.searches, [value(s, s.chosen(budget)) for s in self.searches])

    def means_by_tag(self, budget: int, value: Callable[[SearchResult, int], float]) -> dict[str, Interval]:
        """The same by tag."""
        values = [value(s, s.chosen(budget)) for s in self.searches]
        return intervals_by_tag(values, [s.tag for s in self.searches], [s.text for s in self.searches])


def verifiers_score(search: SearchResult, chosen: int) -> float:
    """Of the delivered image."""
    return search.scores[chosen]


def judges_score(search: SearchResult, chosen: int) -> float:
    """Of the delivered image."""
    return search.judged[chosen]


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
        row.prompt.tag or NO_TAG,
        row.prompt.text,
        tuple(c.search.score if c.search else 0.0 for c in row.candidates),
        tuple(c.check.correct for c in row.candidates if c.check is not None),
        tuple(c.search.round if c.search else 0 for c in row.candidates),
        dict(zip(names, columns, strict=True)) if names else {},
        tuple(c.search is not None and c.search.parent is not None for c in row.candidates),
        tuple(c.search.parts if c.search else () for c in row.candidates),
        dict(Counter(c.search.restart for c in row.candidates if c.search and c.search.restart)),
        tuple(c.check.score for c in row.candidates if c.check is not None),
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
    found = Evaluation(is_judged=config.judge.judge.is_there)
    for row in read_rows(folder, config):
        if row is None:
            found.num_unfinished += 1
        elif found.is_judged and not is_judged(row):
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
    by_questions = config.judge.judge.kind == "questions"
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
        is_left_out = found.is_judged and not is_judged(row)
        is_in_form = bool(row.prompt.tag and row.prompt.include)
        layout = "not_judged" if is_left_out else "geneval" if is_in_form else "free"
        name = f"{layout}/{number:05d}/samples/{sample:04d}.png"
        storage.commit(f"{FOLDER}/{name}", delivered.image or b"")
        metadata = geneval_metadata(row)
        storage.commit(f"{FOLDER}/{layout}/{number:05d}/metadata.jsonl", (json.dumps(metadata) + "\n").encode())
        if not is_left_out:
            line = result_line(name, row.prompt.tag or "", one.text, delivered.check, metadata)
            line |= requirements_of(row.prompt) | atoms_entry(delivered)
            line |= {} if delivered.check else {"correct": None, "score": one.scores[chosen]}
            line |= {"soft_tifa_gm": delivered.check.score} if delivered.check and by_questions else {}
            lines.append(json.dumps(line, ensure_ascii=False))
        films.add(row, chosen)
    storage.commit(f"{FOLDER}/results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    storage.commit(f"{FOLDER}/index.html", render_page(folder, config, summary, films.by_turns()))
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
    """The prompt as a line of GenEval's evaluation_metadata.jsonl; with questions, which that has not, where there are
    some."""
    prompt = row.prompt
    metadata: dict[str, Any] = {"tag": prompt.tag, "include": as_entries(prompt.include), "prompt": prompt.text}
    if prompt.exclude:
        metadata["exclude"] = as_entries(prompt.exclude)
    if prompt.questions:
        metadata["questions"] = [
            {"question": q.text, "answer": q.answer} | ({"skill": q.skill} if q.skill else {}) for q in prompt.questions
        ]
        metadata |= requirements_of(prompt)
    return metadata


def requirements_of(prompt: PromptRecord) -> dict[str, Any]:
    """Where what the images are checked against comes from, and why that is no more, where something is to be said."""
    said = {"requirements_from": prompt.requirements_from, "requirements_note": prompt.requirements_note}
    return {name: value for name, value in said.items() if value is not None}


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
    figures = _judged_figures if found.is_judged else _unjudged_figures
    rows = [{"budget": budget, **figures(found, config, budget)} for budget in budgets]
    cost = {name: value for name, value in vars(found.cost).items() if value}
    return {
        "strategy": config.search.strategy,
        "verifier": list(config.tools.verifier.kinds),
        "width": config.search.width,
        "depth": config.search.depth,
        "num_searches": len(found.searches),
        "num_unfinished": found.num_unfinished,
        "num_not_judged": found.num_not_judged if found.is_judged else len(found.searches),
        "judge": config.judge.judge.label if found.is_judged else None,
        **({} if found.is_judged else {"note": NOBODY_JUDGED}),
        "restarts": dict(sum((Counter(s.restarts) for s in found.searches), Counter())),
        "budgets": rows,
        "cost": cost,
    }


def _judged_figures(found: Evaluation, config: SearchJobConfig, budget: int) -> dict[str, Any]:
    figures = {
        "score": found.score(budget).as_list(),
        "best_there_was": found.score(budget, JUDGE).as_list(),
        "by_tag": found.by_tag(budget),
        "by_tag_intervals": {t: i.as_list() for t, i in found.by_tag_intervals(budget).items()},
    }
    if config.judge.judge.kind == "questions":
        figures["soft_tifa_gm"] = found.mean(budget, judges_score).as_list()
    return figures


def _unjudged_figures(found: Evaluation, config: SearchJobConfig, budget: int) -> dict[str, Any]:
    del config
    by_tag = found.means_by_tag(budget, verifiers_score)
    return {
        "verifier_score": found.mean(budget, verifiers_score).as_list(),
        "verifier_score_by_tag": {tag: one.as_list() for tag, one in by_tag.items()},
    }


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """For the terminal."""
    judged = summary["judge"] is not None
    yield (
        f"{summary['num_searches']} searches ({summary['num_unfinished']} unfinished), {summary['strategy']}, "
        f"chosen by {' and '.join(summary['verifier'])}, "
        + (f"judged by {summary['judge']}" if judged else "judged by nobody")
    )
    if summary["num_not_judged"] and judged:
        yield f"  {summary['num_not_judged']} more searches are not judged: the judge does not know what they ask for"
    if summary["restarts"]:
        yield f"  chains started afresh: {restarts_in_words(summary['restarts'])}"
    names = ("score", "best_there_was") if judged else ("verifier_score",)
    yield "  budget  score [95 %]           best there was" if judged else "  budget  the verifier's score [95 %]"
    for row in summary["budgets"]:
        score, *bound = (Interval.from_list(row[name]) for name in names)
        yield f"  {row['budget']:>6}  {score!s:<22} {bound[0] if bound else ''}".rstrip()
    last = summary["budgets"][-1]
    for tag, found in last["by_tag_intervals" if judged else "verifier_score_by_tag"].items():
        yield f"  {tag:<14} {Interval.from_list(found)}"
