"""What `ablate_corrector` measured, as a table: each choice, and its paired differences to one of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.corrector.corrector_gain import as_data, cell_of
from benchmarks.results_file import print_table
from inference.judges.intervals import Interval, mean_over_tags
from schemas.errors import InputError

ARMS = ("right", "empty", "wrong")
START = "the start"


@dataclass(frozen=True)
class Measured:
    """One trained corrector. held_out: loss of each held-out sample; turned: for each way of drawing again, of each
    wrong image the share of its tries that are right; obeyed: of each open prompt; images: what tells a set of wrong
    images from another."""

    choice: str
    seed: int
    steps: int
    minutes: float
    held_out: list[float]
    turned: dict[str, list[float]]
    obeyed: list[float]
    images: str


def tabulate(
    measured: list[Measured], texts: list[str], against: str = "base", of_other_data: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Figures of each choice, and its differences to the choice `against` of the same seeds; of choices
    `of_other_data` the held-out samples are others. InputError for runs that are not of the same images."""
    if len({m.images for m in measured}) > 1:
        raise InputError("runs were measured on different wrong images", field="--out", expected="another folder")
    base = {m.seed: m for m in measured if m.choice == against}
    figures = {}
    for choice in dict.fromkeys(m.choice for m in measured):
        made = [m for m in measured if m.choice == choice]
        runs = {m.seed: m for m in made if m.seed in base}
        if choice == START:  # it is every seed's
            runs = dict.fromkeys(base, made[0])
        if not runs:
            continue
        values = together(runs.values())
        figures[choice] = {
            "runs": len(made),
            "steps": [m.steps for m in made],
            "held_out_loss": float(values["held_out"].mean()) if len(values["held_out"]) else None,
            "turned_right": as_data(_mean(values["right"], texts)),
            "right_against_again": as_data(_mean(values["right"] - values["again"], texts)),
            "right_against_empty": as_data(_mean(values["right"] - values["empty"], texts)),
            "right_against_wrong": as_data(_mean(values["right"] - values["wrong"], texts)),
            "obeyed": float(values["obeyed"].mean()) if values["obeyed"].size else None,
            "against_base": None,
        }
        if choice != against:
            led = against_base(values, together([base[seed] for seed in runs]), texts)
            if choice in of_other_data or against in of_other_data:
                led.pop("held_out", None)
            by_seed = [np.mean(run.turned["right"]) - np.mean(base[seed].turned["right"]) for seed, run in runs.items()]
            figures[choice]["against_base"] = led | {"turned_right_by_seed": [round(float(d), 4) for d in by_seed]}
    return figures


def together(runs: Collection[Measured]) -> dict[str, np.ndarray]:
    """Means over runs, of each image and prompt. Held-out samples of another seed are other samples: they stand beside
    each other."""
    return {
        "held_out": np.concatenate([m.held_out for m in runs]),
        "obeyed": np.mean([m.obeyed for m in runs], 0),
    } | {way: np.mean([m.turned[way] for m in runs], 0) for way in ("again", *ARMS)}


def against_base(values: dict[str, np.ndarray], base: dict[str, np.ndarray], texts: list[str]) -> dict[str, Any]:
    """Paired differences, where both have the figure."""
    found: dict[str, Any] = {"turned_right": as_data(_mean(values["right"] - base["right"], texts))}
    for name in ("held_out", "obeyed"):
        if values[name].size and values[name].shape == base[name].shape:
            difference = values[name] - base[name]
            found[name] = as_data(_mean(difference, [str(i) for i in range(len(difference))]))
    return found


def _mean(values: np.ndarray, clusters: list[str]) -> Interval:
    return mean_over_tags(values, ["all"] * len(values), clusters)


def show(figures: dict[str, dict[str, Any]]) -> None:
    """The table that people read."""

    def cell(data: dict[str, float | None] | None) -> str:
        return cell_of(data, "+.3f")

    rows = []
    for choice, row in figures.items():
        against = row["against_base"] or {}
        rows.append(
            [
                choice,
                row["runs"],
                "" if row["held_out_loss"] is None else f"{row['held_out_loss']:.4f}",
                cell(against.get("held_out")),
                cell(row["turned_right"]),
                cell(against.get("turned_right")),
                cell(row["right_against_again"]),
                cell(row["right_against_empty"]),
                "" if row["obeyed"] is None else f"{row['obeyed']:.3f}",
            ]
        )
    header = ["choice", "runs", "held-out loss", "- base", "turned right", "- base", "- again", "- empty", "obeyed"]
    print_table(header, rows)
