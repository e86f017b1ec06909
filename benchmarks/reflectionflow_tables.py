"""ReflectionFlow's results in miniature, by one command: `python -m benchmarks.reflectionflow_tables --split ...`.

Every search is a run folder under `--runs`; killed at any moment, the same command goes on. Tables: `budgets` (Table 1,
Fig. 5 middle), `shapes` (Table 2), `verifiers` (Fig. 5 left), `difficulty` (Fig. 5 right), `times` (what it costs, and
equal wall time), `allocation` (beyond the paper), `oracles` (dev split: what holds the result back).

A gain is the paired difference over prompts, the mean over tags, with its 95 % bootstrap interval over texts within
tags. `micro-test` is sealed: each opening is recorded in the results file before anything is searched.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.reflectionflow_plots import draw_plots
from benchmarks.results_file import RESULTS, Circumstances, print_table, save
from benchmarks.search_arms import (
    NOISE,
    NUM_BASE_IMAGES,
    ORACLES,
    PROMPT,
    REFLECTION,
    STRATEGIES,
    WHOLE,
    Arm,
    Found,
    base_arm,
    lacks_corrector,
    oracle_arms,
    read_arm,
    run_arms,
    shape_arms,
    strategy_arms,
)
from benchmarks.search_times import equal_time_rows, time_rows
from inference.judges.intervals import Interval, mean_over_tags
from inference.model_store import resolve_model
from inference.search_tools import VerifierKind
from pipelines.evaluation import JUDGE, score_of
from pipelines.presets import load_search_preset
from pipelines.search_job import SearchJobConfig
from schemas.errors import InputError, MissingWeightsError, ReflectionFlowError

Table = Literal["budgets", "shapes", "verifiers", "difficulty", "times", "oracles"]
TABLES: tuple[Table, ...] = ("budgets", "shapes", "verifiers", "difficulty", "times")
DIAGNOSES: tuple[Table, ...] = ("oracles",)  # made when they are asked for, on prompts that are not sealed
SEALED = "micro-test"
SHAPE_BUDGET = 16
DIFFICULTIES = ("hard", "medium", "easy")
TARGET = "base < best-of-N < ReflectionFlow at 32 images, each difference's interval above 0"


@dataclass(frozen=True)
class Arguments:
    """Which prompts, which models, which tables."""

    split: str = "micro-dev"
    """micro-dev, micro-test (sealed: for final tables alone), or a prompt file in GenEval's form."""
    preset: str = "micro"
    """micro, or flux (then with --split evaluation_metadata.jsonl)."""
    num_prompts: int = 0
    """Prompts, evenly over the tags; 0: all."""
    depth: int = 16
    """Rounds of width 2: the largest budget is twice as many images."""
    only: tuple[Table, ...] = ()
    """Only these tables, and the searches they need. `oracles` is made when it is named, and not on micro-test."""
    corrector: str = "micro/corrector"
    """A corrector's folder or name; strategies that need one are left out where it is not there."""
    reflector: str = ""
    """A trained reflector's; without one the VLM reflects."""
    trained_verifier: str = "micro/verifier"
    """A Bradley-Terry verifier's, for the table of verifiers; left out where it is not there."""
    verifier: VerifierKind = "vlm"
    """Who chooses in all tables but those of shapes and of verifiers."""
    runs: Path = Path("runs/reflectionflow_tables")
    """Where the run folders lie."""
    processes: int = 2
    """Searches at a time, a thread each."""
    runtime: Literal["local", "ray"] = "local"
    """Where a search's stages run."""
    out: Path | None = None
    """The results file, if not benchmarks/results/reflectionflow_tables.json (of dev: ..._dev.json)."""

    @property
    def tables(self) -> tuple[Table, ...]:
        return self.only or TABLES

    @property
    def results(self) -> Path:
        name = "reflectionflow_tables" + ("" if self.split != "micro-dev" else "_dev")
        return self.out or RESULTS / f"{name}.json"

    @property
    def folder(self) -> Path:
        """Of the run folders."""
        return self.runs / Path(self.split).stem

    def command(self) -> str:
        """What anyone types to do it again."""
        default, words = Arguments(), ["python -m benchmarks.reflectionflow_tables"]
        for name in ("split", "preset", "num_prompts", "depth", "only", "corrector", "reflector", "trained_verifier"):
            value = getattr(self, name)
            if value != getattr(default, name):
                words.append(f"--{name.replace('_', '-')} {' '.join(value) if name == 'only' else value}")
        return " ".join(words)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.split == SEALED and set(arguments.only) & set(DIAGNOSES):
        raise InputError(f"{', '.join(DIAGNOSES)} on the sealed split", field="--only", expected="--split micro-dev")
    circumstances = Circumstances.now(arguments.command())
    openings = _openings(arguments, circumstances)
    job, options = load_search_preset(arguments.preset)
    base = _base_job(arguments, job)
    arms = _arms(arguments, base)
    left_out = [arm.name for arm in arms if lacks_corrector(arm)]
    if left_out:
        print(f"left out, without a corrector: {', '.join(left_out)}")
    possible = [arm for arm in arms if not lacks_corrector(arm)]
    started = time.monotonic()
    options = replace(options, quiet=True, runtime=arguments.runtime)
    failed = run_arms(possible, arguments.folder, arguments.preset, options, arguments.processes)
    found = {arm.name: one for arm in possible if (one := read_arm(arm, arguments.folder)) is not None}
    figures: dict[str, Any] = {
        "split": arguments.split,
        "openings": openings,
        "models": _models(base),
        "num_searches": max((len(one.evaluation.searches) for one in found.values()), default=0),
        "searching_seconds": round(time.monotonic() - started),
        "left_out": left_out,
        "failed": failed,
    }
    for table in arguments.tables:
        figures[table] = MAKE[table](found, arguments)
    compared_with = "best-of-N and the base, same prompts, same number of images; judged by what no search saw"
    path = save("reflectionflow_tables", circumstances, figures, compared_with, TARGET, arguments.results)
    print(f"\n{path}  {' '.join(str(p) for p in draw_plots(path))}")
    sys.exit(1 if failed else 0)


def _openings(arguments: Arguments, circumstances: Circumstances) -> list[dict[str, str]]:
    """Every time the sealed split was opened, this one included; written down at once."""
    if arguments.split != SEALED:
        return []
    path = arguments.results
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    openings = known.setdefault("figures", {}).setdefault("openings", [])
    openings.append({"at": circumstances.started_at, "commit": circumstances.commit, "command": circumstances.command})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return openings


def _base_job(arguments: Arguments, job: SearchJobConfig) -> SearchJobConfig:
    """What all searches share. The micro models work in large units, a thread each: two searches side by side take half
    the time of one on two threads."""
    tools = job.tools
    verifier = replace(tools.verifier, kinds=(arguments.verifier,))
    if verifier.trained:
        verifier = replace(verifier, trained=replace(verifier.trained, model=arguments.trained_verifier))
    critic = replace(tools.critic, reflector=arguments.reflector) if tools.critic else None
    corrector = arguments.corrector if _is_here(arguments.corrector) else ""
    job = replace(
        job,
        prompts=arguments.split,
        num_prompts=arguments.num_prompts,
        tools=replace(tools, verifier=verifier, critic=critic, corrector=corrector),
    )
    if arguments.preset != "micro":
        return job
    return replace(job, unit_size=60, num_threads=1, vlm=replace(job.vlm, batch_size=128))


def _is_here(model: str) -> bool:
    if not model:
        return False
    try:
        return bool(resolve_model(model))
    except MissingWeightsError:
        return False


def _arms(arguments: Arguments, base: SearchJobConfig) -> list[Arm]:
    """The searches that the tables need."""
    tables = set(arguments.tables)
    opinions: list[VerifierKind] = []
    if "verifiers" in tables:
        kinds: list[VerifierKind] = ["vlm", "prompted", "trained", "rewards"]
        there = {"trained": _is_here(arguments.trained_verifier)}
        opinions = [kind for kind in kinds if kind != arguments.verifier and there.get(kind, True)]
    arms = strategy_arms(base, arguments.depth, opinions)
    if not tables & {"budgets", "times"}:
        needed = {NOISE, WHOLE} if tables & {"difficulty", "oracles"} else {WHOLE} if "verifiers" in tables else set()
        arms = [arm for arm in arms if arm.name in needed]
    if "shapes" in tables:
        arms += shape_arms(base, min(SHAPE_BUDGET, 2 * arguments.depth))
    if "oracles" in tables:
        arms += oracle_arms(base, arguments.depth)
    if tables & {"difficulty", "budgets"}:
        arms.append(base_arm(base))
    return arms


def _models(base: SearchJobConfig) -> dict[str, Any]:
    """Who took part."""
    tools = base.tools
    return {
        "generator": tools.generator.model,
        "num_steps": tools.generator.num_steps,
        "corrector": tools.corrector,
        "vlm": base.vlm.name,
        "reflector": tools.critic.reflector if tools.critic else "",
        "verifier": list(tools.verifier.kinds),
        "judge": base.judge.judge.model,
    }


# --- The tables -------------------------------------------------------------------------------------------------------


def paired(better: Found, worse: Found, budget: int, other: int | None = None) -> Interval:
    """What `better` gains over `worse`, prompt by prompt. other: `worse`'s budget, if not the same."""
    pairs = list(zip(better.evaluation.searches, worse.evaluation.searches, strict=True))
    if any((a.base, a.text) != (b.base, b.text) for a, b in pairs):
        raise InputError(f"{better.arm.name} and {worse.arm.name} are of different prompts", expected="the same")
    gains = [float(a.is_right(budget)) - float(b.is_right(other or budget)) for a, b in pairs]
    return score_of(better.evaluation.searches, gains)


def plain(interval: Interval) -> list[float]:
    """For JSON."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def budgets_upto(largest: int) -> list[int]:
    """1, 2, 4, ..."""
    return [2**i for i in range(largest.bit_length()) if 2**i <= largest]


def budget_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """Table 1 and Fig. 5 middle."""
    budgets, rows, table = budgets_upto(2 * arguments.depth), [], []
    base = found.get("base")
    if base is not None:
        searches = base.evaluation.searches
        mean = score_of(searches, [sum(s.right) / len(s.right) for s in searches])
        rows.append({"strategy": "base", "budget": 1, "images": NUM_BASE_IMAGES, "score": plain(mean)})
        table.append(["base, mean of ten", 1, *_by_tag(base, None), str(mean), "", ""])
    for name in STRATEGIES:
        if name not in found:
            continue
        one = found[name]
        for budget in budgets:
            score, bound = one.evaluation.score(budget), one.evaluation.score(budget, JUDGE)
            row = {
                "strategy": name,
                "budget": budget,
                "score": plain(score),
                "best_there_was": plain(bound),
                "by_tag": {tag: round(v, 4) for tag, v in one.evaluation.by_tag(budget).items()},
            }
            cells = [name, budget, *_by_tag(one, budget), str(score)]
            for column, other, at in (("over_base", found.get(NOISE), 1), ("over_noise", found.get(NOISE), budget)):
                gain = paired(one, other, budget, at) if other else None
                row[column] = plain(gain) if gain else None
                cells.append(signed(gain))
            rows.append(row)
            table.append(cells)
    tags = list(next(iter(found.values())).evaluation.by_tag(1))[:-1] if found else []
    print("\nTable 1, Fig. 5 middle: strategies by images a prompt")
    print_table(["strategy", "images", *tags, "overall", "gain over base", "gain over noise"], table)
    return {"rows": rows, "ladder": ladder(found, budgets[-1])}


def _by_tag(found: Found, budget: int | None) -> list[str]:
    """Cells. budget None: the mean of all images."""
    evaluation = found.evaluation
    if budget is not None:
        return [f"{share:.2f}" for share in list(evaluation.by_tag(budget).values())[:-1]]
    tags = dict.fromkeys(s.tag for s in evaluation.searches)
    shares = {tag: [v for s in evaluation.searches if s.tag == tag for v in s.right] for tag in tags}
    return [f"{sum(v) / len(v):.2f}" for v in shares.values()]


def ladder(found: dict[str, Found], budget: int) -> dict[str, Any]:
    """base < best-of-N < + prompt < the whole: each step's paired difference at the largest budget."""
    if NOISE not in found:
        return {}
    steps: dict[str, Interval] = {"best-of-N over base": paired(found[NOISE], found[NOISE], budget, 1)}
    for name, below in ((PROMPT, NOISE), (WHOLE, NOISE), (WHOLE, PROMPT), (REFLECTION, NOISE)):
        if name in found and below in found:
            steps[f"{name} over {below}"] = paired(found[name], found[below], budget)
    for name, gain in steps.items():
        print(f"  {name} at {budget} images: {signed(gain)}{'' if gain.low > 0 else '   (not above 0)'}")
    return {name: plain(gain) for name, gain in steps.items()}


def signed(gain: Interval | None) -> str:
    """+0.042 [+0.010, +0.081]."""
    return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else ""


def shape_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """Table 2."""
    shapes = [one for name, one in found.items() if name.startswith("shape-")]
    widest = next((one for one in shapes if one.arm.job.search.depth == 1), None)
    rows, table = [], []
    for one in sorted(shapes, key=lambda s: s.arm.job.search.depth):
        search, evaluation = one.arm.job.search, one.evaluation
        score, tags = evaluation.score(search.budget), evaluation.by_tag(search.budget)
        gain = paired(one, widest, search.budget) if widest else None
        rows.append(
            {
                "width": search.width,
                "depth": search.depth,
                "score": plain(score),
                "best_there_was": plain(evaluation.score(search.budget, JUDGE)),
                "by_tag": {tag: round(value, 4) for tag, value in tags.items()},
                "over_widest": plain(gain) if gain else None,
            }
        )
        shown = [f"{tags.get(tag, float('nan')):.2f}" for tag in ("position", "color_attr")]
        table.append([search.width, search.depth, str(score), *shown, signed(gain)])
    print("\nTable 2: width x depth at one budget, chosen by the prompted verifier")
    print_table(["width", "depth", "overall", "position", "color_attr", "gain over the widest"], table)
    return {"rows": rows}


def verifier_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """Fig. 5 left: the same images, chosen among by each verifier; the judge is the bound."""
    if WHOLE not in found:
        return {"rows": []}
    one, rows, table = found[WHOLE], [], []
    by = {arguments.verifier: "", **{kind: kind for kind in one.evaluation.searches[0].opinions}, JUDGE: JUDGE}
    for kind, chooser in by.items():
        told = _told_apart(one, chooser)
        for budget in budgets_upto(2 * arguments.depth):
            score = one.evaluation.score(budget, chooser)
            rows.append({"verifier": kind, "budget": budget, "score": plain(score), "right_before_wrong": told})
            table.append([kind, budget, str(score), f"{told:.3f}"])
    print("\nFig. 5 left: who chooses (the same images of the whole ReflectionFlow)")
    print_table(["verifier", "images", "overall", "right before wrong"], table)
    return {"rows": rows}


def _told_apart(found: Found, by: str) -> float:
    """Share of (right, wrong) pairs of one prompt's images that a verifier ranks so; ties count half."""
    hits = pairs = 0.0
    for one in found.evaluation.searches:
        scores = one.right if by == JUDGE else one.opinions[by] if by else one.scores
        right = [s for s, ok in zip(scores, one.right, strict=True) if ok]
        wrong = [s for s, ok in zip(scores, one.right, strict=True) if not ok]
        pairs += len(right) * len(wrong)
        hits += sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return round(hits / pairs, 4) if pairs else float("nan")


def difficulty_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """Fig. 5 right. Prompts are binned by ten images of the base that are used for nothing else."""
    if "base" not in found or NOISE not in found:
        return {"rows": []}
    bins = {s.base: bin_of(sum(s.right) / len(s.right)) for s in found["base"].evaluation.searches}
    budget, rows, table = 2 * arguments.depth, [], []
    for name in DIFFICULTIES:
        cells: list[Any] = [name, sum(b == name for b in bins.values())]
        row: dict[str, Any] = {"difficulty": name, "num_prompts": cells[1]}
        for column, arm, at, minus in (
            ("base", NOISE, 1, None),
            ("best_of_n", NOISE, budget, None),
            ("whole", WHOLE, budget, None),
            ("whole_over_base", WHOLE, budget, 1),
            ("whole_over_best_of_n", WHOLE, budget, budget),
        ):
            value = _of_bin(found, arm, at, minus, [b == name for b in bins.values()]) if arm in found else None
            row[column] = plain(value) if value else None
            cells.append("" if value is None else str(value) if minus is None else signed(value))
        rows.append(row)
        table.append(cells)
    print(f"\nFig. 5 right: by difficulty, {budget} images")
    print_table(["prompts", "number", "base", "best of N", "the whole", "gain over base", "gain over best of N"], table)
    return {"rows": rows}


def bin_of(share: float) -> str:
    """ReflectionFlow §4.4: hard up to .3, medium .4 to .7, easy from .8; shares of ten images leave no gaps."""
    return "hard" if share < 0.35 else "medium" if share < 0.75 else "easy"


def _of_bin(found: dict[str, Found], name: str, budget: int, minus: int | None, chosen: Sequence[bool]) -> Interval:
    """A score, or what is gained over `minus` images of noise; the mean over prompts."""
    one, noise = found[name].evaluation.searches, found[NOISE].evaluation.searches
    values = [
        float(a.is_right(budget)) - (0.0 if minus is None else float(b.is_right(minus)))
        for a, b, is_in in zip(one, noise, chosen, strict=True)
        if is_in
    ]
    texts = [a.text for a, is_in in zip(one, chosen, strict=True) if is_in]
    return mean_over_tags(values, ["all"] * len(values), texts)


def times_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """What a search costs, and best-of-N against each strategy at equal wall time."""
    budgets = budgets_upto(2 * arguments.depth)
    spent = [row for name in STRATEGIES if name in found for row in time_rows(found[name], budgets)]
    print("\nWhat a search costs, a prompt (measured; two searches side by side, a thread each)")
    counted = ("seconds", "generations", "denoiser_passes", "verifier_calls", "vlm_calls", "vlm_tokens")
    rows = [[r["strategy"], r["budget"], *(f"{r[c]:,.3g}" for c in counted)] for r in spent]
    print_table(["strategy", "images", *(name.replace("_", " ") for name in counted)], rows)
    equal: dict[str, Any] = {}
    for costs in ("measured", "flux"):
        equal[costs] = []
        for name in (PROMPT, WHOLE, REFLECTION):
            if name in found and NOISE in found:
                equal[costs] += equal_time_rows(found[name], found[NOISE], budgets, costs, paired)
        print(f"\nAt equal wall time, {'micro costs' if costs == 'measured' else 'FLUX.1-dev on an H100, as stated'}")
        rows = [
            [
                r["strategy"],
                r["budget"],
                f"{r['seconds']:.3g}",
                r["noise_budget"],
                f"{r['gain'][0]:+.3f}",
                r["gain"][1:],
            ]
            for r in equal[costs]
        ]
        print_table(["strategy", "images", "seconds", "best-of-N has", "gain", "95 %"], rows)
    return {"spent": spent, "equal_time": equal}


def oracle_table(found: dict[str, Found], arguments: Arguments) -> dict[str, Any]:
    """What each part would gain if it were as good as the judge lets it be: the part that gains most holds it back."""
    budgets = [b for b in budgets_upto(2 * arguments.depth) if b in (2, 8, 2 * arguments.depth)]
    rows, table = [], []
    arms = {"nothing": WHOLE, **{name.removeprefix("oracle-"): name for name in ORACLES}}
    for part, name in arms.items():
        for chooser in ("", JUDGE):
            for budget in budgets if name in found else ():
                score = found[name].evaluation.score(budget, chooser)
                gain = paired(found[name], found[WHOLE], budget) if WHOLE in found and not chooser else None
                who = chooser or arguments.verifier
                row = {"oracle": part, "chooser": who, "budget": budget, "score": plain(score)}
                rows.append(row | {"over_none": plain(gain) if gain else None})
                table.append([part, who, budget, str(score), signed(gain)])
    print("\nOracles in place of parts of the whole")
    print_table(["oracle", "who chooses", "images", "overall", "gain over no oracle"], table)
    return {"rows": rows}


MAKE: dict[Table, Callable[[dict[str, Found], Arguments], dict[str, Any]]] = {
    "budgets": budget_table,
    "shapes": shape_table,
    "verifiers": verifier_table,
    "difficulty": difficulty_table,
    "times": times_table,
    "oracles": oracle_table,
}

if __name__ == "__main__":
    try:
        main()
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
