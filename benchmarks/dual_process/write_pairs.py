"""The micro world's pairs as a file in CommonsenseT2I's layout, for `python -m pipelines evaluate commonsense-t2i`.

python -m benchmarks.dual_process.write_pairs --out pairs.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.dual_process.micro_commonsense import commonsense_pairs
from inference.judges.commonsense_t2i import CommonsensePair
from schemas.atomic_file import write_whole


@dataclass(frozen=True)
class Arguments:
    """Which pairs, and where to."""

    out: Path = Path("pairs.json")
    pairs_per_category: int = 4


def main() -> None:
    """Write them."""
    arguments = tyro.cli(Arguments, description=__doc__)
    pairs = commonsense_pairs(arguments.pairs_per_category)
    write_pairs(arguments.out, pairs)
    print(f"{len(pairs)} pairs: {arguments.out}")


def write_pairs(path: Path, pairs: Sequence[CommonsensePair]) -> None:
    """A row each."""
    rows = [
        {"prompt1": a, "prompt2": b, "description1": c, "description2": d, "category": pair.category}
        for pair in pairs
        for (a, b), (c, d) in [(pair.prompts, pair.descriptions)]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
