"""The tables of `reflectionflow_tables`: finished searches in, printed rows and plain data out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.results_file import print_table
from benchmarks.search.replayed_allocation import replay
from benchmarks.search.search_arms import (
    ATOMS,
    EDITORS,
    NOISE,
    NUM_BASE_IMAGES,
    ORACLES,
    PROMPT,
    REFLECTION,
    ROUTED,
    STRATEGIES,
    WHOLE,
    Found,
)
from benchmarks.search.search_times import equal_time_rows, measured_seconds, time_rows
from inference.allocation import AllocationConfig
from inference.judges.intervals import Interval, mean_over_tags
from pipelines.evaluation import JUDGE, score_of
from pipelines.stated_figures import GPUS
from schemas.errors import InputError

DIFFICULTIES = ("hard", "medium", "easy")


def paired(better: Found, worse: Found, budget: int, other: int | None = None) -> Interval:
    """What `better` gains over `worse`, prompt by prompt. other: `worse`'s budget, if not the same."""
    pairs = list(zip(better.evaluation.searches, worse.evaluation.searches, strict=True))
    if any((a.base, a.text) != (b.base, b.text) for a, b in pairs):
        raise InputError(f"{better.arm.name} and {worse.arm.name} are of different prompts", expected="the same")
    gains = [float(a.is_right(budget)) - float(b.is_right(other or budget)) for a, b in pairs]
    return score_of(better.evaluation.searches, gains)


def plain(interval: Interval) -> list[float | None]:
    """For JSON."""
    return interval.as_list(digits=4)


def budgets_upto(largest: int) -> list[int]:
    """1, 2, 4, ..."""
    return [2**i for i in range(largest.bit_length()) if 2**i <= largest]


def budget_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """Table 1 and Fig. 5 middle."""
    budgets, rows, table = budgets_upto(largest), [], []
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
    return gain.shown("+.3f") if gain else ""


def shape_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
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


def verifier_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """Fig. 5 left: the same images, chosen among by each verifier; the judge is the bound."""
    if WHOLE not in found:
        return {"rows": []}
    one, rows, table = found[WHOLE], [], []
    by = {verifier: "", **{kind: kind for kind in one.evaluation.searches[0].opinions}, JUDGE: JUDGE}
    for kind, chooser in by.items():
        told = _told_apart(one, chooser)
        for budget in budgets_upto(largest):
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


def difficulty_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """Fig. 5 right, at each budget. Prompts are binned by ten images of the base that are used for nothing else
    (ten for each of a prompt's searches)."""
    if "base" not in found or NOISE not in found:
        return {"rows": []}
    right: dict[str, list[bool]] = defaultdict(list)
    for one in found["base"].evaluation.searches:
        right[one.base] += one.right
    bins = {base: bin_of(sum(images) / len(images)) for base, images in right.items()}
    rows, table = [], []
    for name in DIFFICULTIES:
        chosen = [bins[s.base] == name for s in found[NOISE].evaluation.searches]
        if not any(chosen):
            continue
        for budget in budgets_upto(largest)[2:]:
            cells: list[Any] = [name, sum(b == name for b in bins.values()), budget]
            row: dict[str, Any] = {"difficulty": name, "num_prompts": cells[1], "budget": budget}
            for column, arm, at, minus in (
                ("base", NOISE, 1, None),
                ("best_of_n", NOISE, budget, None),
                ("whole", WHOLE, budget, None),
                ("reflection", REFLECTION, budget, None),
                ("whole_over_base", WHOLE, budget, 1),
                ("whole_over_best_of_n", WHOLE, budget, budget),
                ("reflection_over_best_of_n", REFLECTION, budget, budget),
            ):
                value = _of_bin(found, arm, at, minus, chosen) if arm in found else None
                row[column] = plain(value) if value else None
                cells.append("" if value is None else str(value) if minus is None else signed(value))
            rows.append(row)
            table.append(cells)
    print("\nFig. 5 right: by difficulty")
    over = ["the whole over base", "over best of N", "reflection over best of N"]
    print_table(["prompts", "number", "images", "base", "best of N", "the whole", "reflection", *over], table)
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


def times_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """What a search costs, and best-of-N against each strategy at equal wall time."""
    budgets = budgets_upto(largest)
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
        whose = "micro costs" if costs == "measured" else f"FLUX.1-dev on an H100 ({GPUS['h100'].pass_source})"
        print(f"\nAt equal wall time, {whose}")
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
    return {"spent": spent, "equal_time": equal, "flux_pass": GPUS["h100"].pass_source}


SURE = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


def allocation_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """Beyond the paper: one budget for all prompts, spent by what the verifier says, against the same for each; of
    reflection alone."""
    rows, table = [], []
    fixed = found.get(REFLECTION)
    allocated = sorted((one for name, one in found.items() if name.startswith("allocated-")), key=_images)
    for one in ([fixed] if fixed else []) + allocated:
        is_fixed = one is fixed
        for budget in budgets_upto(largest)[1:] if is_fixed else [one.arm.job.search.budget]:
            images = float(budget) if is_fixed else _images(one)
            row: dict[str, Any] = {"scheme": one.arm.name, "images": round(images, 3), "chosen_by": verifier}
            score = one.evaluation.score(budget)
            equal = 2 * max(1, round(images / 2))  # the fixed scheme's budget that comes nearest
            over_all = paired(one, fixed, budget, largest) if fixed else None
            over_equal = paired(one, fixed, budget, equal) if fixed and not is_fixed and equal <= largest else None
            for column, gain in (("over_largest", over_all), ("over_equal", over_equal)):
                row[column] = plain(gain) if gain else None
            rows.append(row | {"score": plain(score)})
            name = "fixed" if is_fixed else one.arm.name
            table.append([name, f"{images:.2f}", str(score), signed(over_all), signed(over_equal)])
    print("\nBeyond the paper: the same images for each prompt, or one budget for all")
    print_table(["scheme", "images", "overall", f"over fixed {largest}", "over fixed, as many images"], table)
    return {"rows": rows}


def _images(found: Found) -> float:
    """A search, on average."""
    return sum(len(s.scores) for s in found.evaluation.searches) / len(found.evaluation.searches)


def sureness_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """What stopping at a score would have saved and lost, on recorded searches: to choose `allocation.sure`."""
    rows, table = [], []
    for name in (NOISE, REFLECTION):
        for sure in SURE if name in found else ():
            one = found[name]
            searches = one.evaluation.searches
            config = AllocationConfig(budget=float(largest), sure=sure)
            used = replay([s.scores[:largest] for s in searches], one.arm.job.search.width, config)
            hits = [float(s.is_right(n)) for s, n in zip(searches, used, strict=True)]
            lost = score_of(searches, [hit - float(s.is_right(largest)) for s, hit in zip(searches, hits, strict=True)])
            images = sum(used) / len(used)
            rows.append({"strategy": name, "sure": sure, "images": round(images, 3), "over_largest": plain(lost)})
            table.append([name, sure, f"{images:.2f}", str(score_of(searches, hits)), signed(lost)])
    print(f"\nStopping at a score, on the recorded searches of {largest} images (chosen by {verifier})")
    print_table(["strategy", "sure at", "images", "overall", f"over all {largest}"], table)
    return {"rows": rows}


def oracle_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """What each part would gain if it were as good as the judge lets it be: the part that gains most holds it back."""
    budgets = [b for b in budgets_upto(largest) if b in (2, 8, largest)]
    rows, table = [], []
    arms = {"nothing": REFLECTION, **{name.removeprefix("oracle-"): name for name in ORACLES}}
    for part, name in arms.items():
        for chooser in ("", JUDGE):
            for budget in budgets if name in found else ():
                score = found[name].evaluation.score(budget, chooser)
                gain = paired(found[name], found[REFLECTION], budget) if REFLECTION in found and not chooser else None
                who = chooser or verifier
                row = {"oracle": part, "chooser": who, "budget": budget, "score": plain(score)}
                rows.append(row | {"over_none": plain(gain) if gain else None})
                table.append([part, who, budget, str(score), signed(gain)])
    print("\nOracles in place of parts of reflection")
    print_table(["oracle", "who chooses", "images", "overall", "gain over no oracle"], table)
    return {"rows": rows}


def editor_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """The paper's corrector, editors and best of N, at the same number of images; chosen by `verifier`."""
    rows, table = [], []
    for name in (NOISE, REFLECTION, *EDITORS):
        for budget in budgets_upto(largest) if name in found else ():
            score = found[name].evaluation.score(budget)
            row = {"corrector": name, "budget": budget, "chooser": verifier, "score": plain(score)}
            cells = [name, budget, str(score)]
            for column, other in (("over_noise", NOISE), ("over_corrector", REFLECTION)):
                gain = paired(found[name], found[other], budget) if other in found and other != name else None
                row[column] = plain(gain) if gain else None
                cells.append(signed(gain))
            rows.append(row)
            table.append(cells)
    print("\nThe paper's corrector, editors, and best of N")
    print_table(["who corrects", "images", "overall", "gain over best of N", "gain over the paper's corrector"], table)
    return {"rows": rows}


def atom_table(found: dict[str, Found], largest: int, verifier: str) -> dict[str, Any]:
    """Best of N, free reflections, and reflections of what fails with and without a learned route: scores, paired
    gains, and what they cost; and how many images and how much time each takes for best of N's last score."""
    rows, table = [], []
    for name in (NOISE, REFLECTION, ATOMS, ROUTED):
        spent = {row["budget"]: row for row in time_rows(found[name], budgets_upto(largest))} if name in found else {}
        for budget in budgets_upto(largest) if name in found else ():
            score = found[name].evaluation.score(budget)
            cost = spent.get(budget, {})
            row: dict[str, Any] = {"strategy": name, "budget": budget, "chooser": verifier, "score": plain(score)}
            row |= {column: cost.get(column) for column in ("seconds", "vlm_calls", "vlm_tokens")}
            row["best_there_was"] = plain(found[name].evaluation.score(budget, JUDGE))
            cells = [name, budget, str(score)]
            for column, other in (("over_noise", NOISE), ("over_reflection", REFLECTION), ("over_atoms", ATOMS)):
                gain = paired(found[name], found[other], budget) if other in found and other != name else None
                row[column] = plain(gain) if gain else None
                cells.append(signed(gain))
            rows.append(row)
            table.append([*cells, _number(cost.get("vlm_tokens")), _number(cost.get("seconds"))])
    print("\nReflections of what fails")
    over = [f"gain over {name}" for name in ("best of N", "free reflection", "atoms")]
    print_table(["strategy", "images", "overall", *over, "VLM tokens", "seconds"], table)
    return {"rows": rows, "to_reach_best_of_n": _to_reach(found, largest)}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"


def _to_reach(found: dict[str, Found], largest: int) -> list[dict[str, Any]]:
    """How many images, and which share of its time, a strategy takes until it scores what best of N does with all its
    images; None for one that does not."""
    if NOISE not in found:
        return []
    noise, rows = found[NOISE], []
    aim, whole = noise.evaluation.score(largest).value, measured_seconds(noise, largest)
    for name in (REFLECTION, ATOMS, ROUTED):
        if name not in found:
            continue
        width = found[name].arm.job.search.width
        reached = (n for n in range(width, largest + 1, width) if found[name].evaluation.score(n).value >= aim)
        images = next(reached, None)
        share = measured_seconds(found[name], images) / whole if images and whole else None
        rows.append({"strategy": name, "score": round(aim, 4), "images": images, "share_of_time": share})
        print(
            f"  {name}: best of {largest}'s score with {images or 'more'} images"
            + (f", {share:.2f} of its time" if share else "")
        )
    return rows
