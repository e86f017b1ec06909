"""One strategy against another over several sets of prompts together, from finished searches of the same prompts.

`python -m benchmarks.search.paired_gain --a RUN [RUN ...] --b RUN [RUN ...] --name NAME` takes what each search
delivered at its full budget (`evaluation/results.jsonl`) and gives the paired difference b - a: the mean over tags with
a 95 % bootstrap interval over texts, and the exact test of McNemar (1947) on the prompts of which only one is right.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.corrector.corrector_gain import as_data
from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.judges.intervals import mean_over_tags
from schemas.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """Which searches."""

    a: tuple[Path, ...]
    """Run folders of searches."""
    b: tuple[Path, ...]
    """As many, of the same prompts in the same order."""
    name: str
    """Of the results file."""


def delivered(run: Path) -> list[dict[str, Any]]:
    """The rows of a search's results. InputError where it is not finished."""
    path = run / "evaluation" / "results.jsonl"
    if not path.exists():
        raise InputError(f"{path} is not there", field=str(run), expected="a search that ran to its end")
    return [json.loads(line) for line in path.read_text().splitlines()]


def paired(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of two searches' rows. InputError for other prompts."""
    if [row["prompt"] for row in a] != [row["prompt"] for row in b]:
        raise InputError("the searches are of other prompts", field="--b", expected="those of --a")
    won = sum(y["correct"] and not x["correct"] for x, y in zip(a, b, strict=True))
    lost = sum(x["correct"] and not y["correct"] for x, y in zip(a, b, strict=True))
    difference = np.array([float(y["correct"]) - float(x["correct"]) for x, y in zip(a, b, strict=True)])
    gain = mean_over_tags(difference, [row["tag"] for row in a], [row["prompt"] for row in a])
    return {
        "prompts": len(a),
        "a": round(float(np.mean([row["correct"] for row in a])), 4),
        "b": round(float(np.mean([row["correct"] for row in b])), 4),
        "gain": as_data(gain),
        "only_b_right": won,
        "only_a_right": lost,
        "p": round(exact_p(won, lost), 5),
    }


def exact_p(won: int, lost: int) -> float:
    """Two-sided: how often a fair coin, thrown won + lost times, divides them at least as unevenly."""
    thrown = won + lost
    tail = sum(comb(thrown, k) for k in range(max(won, lost), thrown + 1))
    return min(1.0, 2 * tail / 2**thrown)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.search.paired_gain {' '.join(sys.argv[1:])}")
    if len(arguments.a) != len(arguments.b):
        raise InputError(f"{len(arguments.a)} and {len(arguments.b)} runs", field="--b", expected="as many as of --a")
    sets = [(delivered(a), delivered(b)) for a, b in zip(arguments.a, arguments.b, strict=True)]
    figures = {str(run): paired(*rows) for run, rows in zip(arguments.b, sets, strict=True)}
    figures["together"] = paired([row for a, _ in sets for row in a], [row for _, b in sets for row in b])
    save(arguments.name, circumstances, figures, compared_with="--a")
    header = ["set", "prompts", "a", "b", "gain", "only b", "only a", "p"]
    print_table(
        header,
        [
            [
                name,
                row["prompts"],
                row["a"],
                row["b"],
                "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["gain"]),
                row["only_b_right"],
                row["only_a_right"],
                row["p"],
            ]
            for name, row in figures.items()
        ],
    )


if __name__ == "__main__":
    run_command(main)
