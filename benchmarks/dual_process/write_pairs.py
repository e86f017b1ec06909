"""The micro world's pairs as a file in CommonsenseT2I's layout, for `python -m pipelines evaluate commonsense-t2i`.

python -m benchmarks.dual_process.write_pairs --out pairs.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.dual_process.micro_commonsense import commonsense_pairs
from schemas.atomic_file import write_whole


@dataclass(frozen=True)
class Arguments:
    """Which pairs, and where to."""

    out: Path = Path("pairs.json")
    pairs_per_category: int = 4


def main() -> None:
    """Write them."""
    arguments = tyro.cli(Arguments, description=__doc__)
    rows = [
        {"prompt1": a, "prompt2": b, "description1": c, "description2": d, "category": pair.category}
        for pair in commonsense_pairs(arguments.pairs_per_category)
        for (a, b), (c, d) in [(pair.prompts, pair.descriptions)]
    ]
    write_whole(arguments.out, json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} pairs: {arguments.out}")


if __name__ == "__main__":
    main()
