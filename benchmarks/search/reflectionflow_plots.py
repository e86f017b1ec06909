"""The curves of the paper's Fig. 5, from a results file.

`python -m benchmarks.search.reflectionflow_plots --results FILE` draws them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.results_file import RESULTS

COLORS = {
    "noise": "#8a8f98",
    "noise+prompt": "#d97706",
    "reflection": "#7c3aed",
    "noise+prompt+reflection": "#2563eb",
    "judge": "#8a8f98",
    "vlm": "#2563eb",
    "prompted": "#d97706",
    "trained": "#059669",
    "rules": "#0891b2",
    "rewards": "#dc2626",
    "editor": "#059669",
    "editor-with-prompt": "#0891b2",
    "atoms": "#d97706",
    "atoms-routed": "#059669",
}
LABELS = {
    "atoms": "what fails",
    "atoms-routed": "what fails, routed",
    "noise": "best of N",
    "noise+prompt": "+ prompt",
    "noise+prompt+reflection": "+ reflection (the whole)",
}


@dataclass(frozen=True)
class Arguments:
    """Which results."""

    results: Path = RESULTS / "reflectionflow_tables.json"


def draw_plots(results: Path) -> list[Path]:
    """An SVG beside the results for each figure whose table they hold."""
    figures = json.loads(results.read_text())["figures"]
    drawn = []
    if rows := [r for r in figures.get("budgets", {}).get("rows", ()) if r["strategy"] != "base"]:
        drawn.append(_curves(rows, "strategy", results, "budgets", "Score by images a prompt"))
    if rows := figures.get("verifiers", {}).get("rows", ()):
        drawn.append(_curves(rows, "verifier", results, "verifiers", "Score by who chooses"))
    if rows := figures.get("difficulty", {}).get("rows", ()):
        largest = max(row["budget"] for row in rows)
        drawn.append(_bars([row for row in rows if row["budget"] == largest], results))
    if rows := figures.get("atoms", {}).get("rows", ()):
        drawn.append(_curves(rows, "strategy", results, "atoms", "Score by images a prompt"))
    if rows := figures.get("editors", {}).get("rows", ()):
        drawn.append(_beside(rows, results))
    return drawn


def _figure(columns: int = 1) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "reflectionflow"  # the same figures give the same bytes
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(6.4 if columns == 1 else 5.2 * columns, 4))
    for one in [axes] if columns == 1 else axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", alpha=0.3)
    return figure, axes


def _curves(rows: list[dict[str, Any]], by: str, results: Path, name: str, title: str) -> Path:
    figure, axes = _figure()
    for kind in dict.fromkeys(row[by] for row in rows):
        points = [row for row in rows if row[by] == kind]
        budgets, scores = [p["budget"] for p in points], [p["score"][0] for p in points]
        low, high = np.array([p["score"][1:3] for p in points], float).T  # NaN where there is no interval
        color = COLORS.get(kind)
        axes.plot(budgets, scores, marker="o", color=color, label=LABELS.get(kind, kind))
        axes.fill_between(budgets, low, high, color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    ticks = sorted({row["budget"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(xlabel="images a prompt", ylabel="score (mean over tags)", title=title)
    axes.legend(frameon=False)
    return _save(figure, results, name)


EDITOR_LABELS = {
    "noise": "best of N",
    "reflection": "the paper's corrector",
    "editor": "editor, told the reflection",
    "editor-with-prompt": "editor, told prompt and reflection",
}


def _beside(rows: list[dict[str, Any]], results: Path) -> Path:
    """Scores, and the paired gains over best of N, each with its 95 % interval."""
    figure, (scores, gains) = _figure(2)
    for kind in dict.fromkeys(row["corrector"] for row in rows):
        for axes, column in ((scores, "score"), (gains, "over_noise")):
            points = [(row["budget"], row[column]) for row in rows if row["corrector"] == kind and row[column]]
            if not points:
                continue
            budgets, values = [budget for budget, _ in points], [value for _, value in points]
            axes.plot(budgets, [v[0] for v in values], marker="o", color=COLORS.get(kind), label=EDITOR_LABELS[kind])
            low, high = np.array([v[1:3] for v in values], float).T
            axes.fill_between(budgets, low, high, color=COLORS.get(kind), alpha=0.12, linewidth=0)
    ticks = sorted({row["budget"] for row in rows})
    for axes in (scores, gains):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(xlabel="images a prompt")
    scores.set(ylabel="score (mean over tags)", title="Who corrects")
    gains.set(ylabel="gain over best of N", title="The same, paired by prompt")
    gains.axhline(0.0, color=COLORS["noise"], linewidth=1)
    scores.legend(frameon=False)
    return _save(figure, results, "editors")


def _bars(rows: list[dict[str, Any]], results: Path) -> Path:
    figure, axes = _figure()
    columns = [
        ("base", "base", "#c7cbd1"),
        ("best_of_n", "best of N", "#8a8f98"),
        ("whole", "the whole", "#2563eb"),
        ("reflection", "reflection", "#7c3aed"),
    ]
    for offset, (column, label, color) in enumerate(columns):
        shown = [(i, row[column]) for i, row in enumerate(rows) if row[column] and row["num_prompts"]]
        at = [i + (offset - 1.5) * 0.21 for i, _ in shown]
        values = [v[0] for _, v in shown]
        errors = [[v[0] - v[1] for _, v in shown], [v[2] - v[0] for _, v in shown]]
        axes.bar(at, values, 0.19, yerr=errors, color=color, label=label, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(rows)), [f"{row['difficulty']} ({row['num_prompts']})" for row in rows])
    axes.set(ylabel="share right", title=f"By difficulty, {rows[0]['budget']} images")
    axes.legend(frameon=False, ncol=len(columns), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return _save(figure, results, "difficulty")


def _save(figure: Any, results: Path, name: str) -> Path:
    path = results.with_name(f"{results.stem}_{name}.svg")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    return path


if __name__ == "__main__":
    print(*draw_plots(tyro.cli(Arguments, description=__doc__).results), sep="\n")
