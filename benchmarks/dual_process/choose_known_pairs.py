"""Measure what could be in the fair commonsense set, and choose it: `python -m
benchmarks.dual_process.choose_known_pairs` (some ten minutes on a core).

Of every candidate (`benchmarks.dual_process.known_pairs`) the shipped micro generator draws the prompt and, where that
leaves something to learn, the description, the same seeds each; the benchmark's own judge says how many images show
what is implied. The measurements are kept with the results, and the pairs beside the code, in CommonsenseT2I's layout.
Each text's are in --out at once: killed, the same command goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks.dual_process.dual_process_tasks import read_result, write_result
from benchmarks.dual_process.known_pairs import (
    BASE,
    FOLDER,
    KINDS,
    SAID,
    Implied,
    candidates,
    choose,
    is_learnable,
)
from benchmarks.dual_process.micro_commonsense import MicroDescriptionJudge
from benchmarks.dual_process.write_pairs import write_pairs
from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.model_store import model_digest
from microworld.family import micro_flux
from schemas.configuration import content_key, model_names

FIRST_SEED = 80_000
"""Neither trained nor evaluated on by a distillation."""


@dataclass(frozen=True)
class Arguments:
    """How it is measured."""

    num_seeds: int = 64
    """Images of each prompt, and of each description."""
    out: Path = Path("runs/known_pairs")
    """Where each text's measurements are kept."""


class Shares:
    """How often images of a text show each of some descriptions."""

    def __init__(self, num_seeds: int, out: Path) -> None:
        self._seeds, self._out = range(FIRST_SEED, FIRST_SEED + num_seeds), out
        self._generator, self._judge = FluxGenerator(micro_flux(batch_size=32)), MicroDescriptionJudge()
        config = self._generator.config
        names = (*model_names(config), *model_names(self._judge.judge.config))
        self._models = content_key(asdict(config), [model_digest(name) for name in names])

    def of(self, text: str, descriptions: Sequence[str]) -> dict[str, float]:
        """Measured, or read."""
        key = content_key(self._models, text, list(descriptions), FIRST_SEED, len(self._seeds))
        path = self._out / f"{key[:16]}.json"
        found = read_result(path, key)
        if found is None:
            images = self._generator.generate([text] * len(self._seeds), self._seeds)
            seen = list(zip(images, self._judge.judge.find_objects(images), strict=True))
            found = {
                description: float(np.mean([self._judge.is_shown(i, objects, description) for i, objects in seen]))
                for description in descriptions
            }
            write_result(path, key, found)
        return found


def main() -> None:
    """Measure, choose, write both."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    torch.set_num_threads(1)
    circumstances = Circumstances.now(" ".join(["python -m benchmarks.dual_process.choose_known_pairs", *sys.argv[1:]]))
    shares = Shares(arguments.num_seeds, arguments.out)
    base, said = base_shares(candidates(), shares), {}

    def said_of(item: Implied) -> float:
        text = item.description
        said[item] = shares.of(text, [text])[text]
        print(f"{text!r}: {base[item]:.2f} unsaid, {said[item]:.2f} said", flush=True)
        return said[item]

    chosen = choose(base, said_of)
    figures = {
        "images": arguments.num_seeds,
        "first_seed": FIRST_SEED,
        "kinds": {kind: summary(kind, base, said) for kind in KINDS},
        "candidates": [asdict(item) | {"base": share, "said": said.get(item)} for item, share in base.items()],
    }
    target = f"taken: base {BASE[0]} to {BASE[1]}, said from {SAID} on"
    path = save("known_pairs", circumstances, figures, "images of the prompts with images of the descriptions", target)
    print_table(["kind", *SUMMARY], [[kind, *figures["kinds"][kind].values()] for kind in KINDS])
    for split, pairs in chosen.items():
        write_pairs(FOLDER / f"{split}.json", pairs)
        print(f"{split}: {len(pairs)} pairs")
    print(f"measurements: {path}")


def base_shares(items: Sequence[Implied], shares: Shares) -> dict[Implied, float]:
    """How often images of each prompt show what it is to imply: each prompt is drawn once for all of that."""
    started = time.monotonic()
    by_prompt: dict[str, list[Implied]] = {}
    for item in items:
        by_prompt.setdefault(item.prompt, []).append(item)
    found: dict[Implied, float] = {}
    for number, (prompt, of_prompt) in enumerate(by_prompt.items(), 1):
        share = shares.of(prompt, [item.description for item in of_prompt])
        found |= {item: share[item.description] for item in of_prompt}
        print(f"{number}/{len(by_prompt)} prompts  {time.monotonic() - started:.0f} s  {prompt!r}", flush=True)
    return {item: found[item] for item in items}


SUMMARY = ("candidates", "learnable", "descriptions measured", "of these fair")


def summary(kind: str, base: Mapping[Implied, float], said: Mapping[Implied, float]) -> dict[str, int]:
    """Of one kind, `SUMMARY`."""
    shares = [share for item, share in base.items() if item.kind == kind]
    measured = [share for item, share in said.items() if item.kind == kind]
    counts = (len(shares), sum(map(is_learnable, shares)), len(measured), sum(share >= SAID for share in measured))
    return dict(zip(SUMMARY, counts, strict=True))


if __name__ == "__main__":
    run_command(main)
