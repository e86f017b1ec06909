"""A round of images that fool a teacher, for the next training of it (`microworld.training.fooled`).

`python -m benchmarks.dual_process.fooling_images --work-dir DIR` teaches the micro generator sampled concepts by
`--teacher` and keeps what it draws meanwhile, with what is true of it, in DIR/fooled. Then `python -m trainers micro
--model teacher --from-exported --work-dir DIR` goes on with these beside its other lessons. About a minute a concept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from benchmarks.dual_process.known_pairs import Split, known_pairs
from benchmarks.results_file import run_command
from inference.dual.concept import Concept
from inference.dual.questions import bare
from microworld.training.fooled import FOLDER, KINDS, FoolingImages, looked_at, sample_concept
from microworld.training.vlm_data import NO, YES
from microworld.training.vlm_rows import Turn
from recipes import micro
from trainers.dual_process import DualProcess


@dataclass(frozen=True)
class Arguments:
    """How many concepts are taught, and where what comes of it goes."""

    teacher: str = "micro/teacher"
    """Who teaches."""
    work_dir: Path = Path("runs/micro")
    """Of the teacher's next training."""
    name: str = "first"
    """Of this round's file."""
    concepts: int = 10
    """Of the kinds by turns."""
    steps: int = 40
    """Of each concept, at most."""
    every: int = 10
    """Steps between two looks."""
    images: int = 16
    """Of a look."""
    seed: int = 0
    """Of the concepts."""


def main() -> None:
    """Teach, look, read and write; a line a concept."""
    arguments = tyro.cli(Arguments, description=__doc__)
    import torch

    torch.set_num_threads(1)
    config = micro.dual_process()
    config = replace(config, teacher=replace(config.teacher, model=arguments.teacher), steps=arguments.steps)
    models = DualProcess(replace(config, num_evaluated=arguments.images, num_threads=1))
    images: list[np.ndarray] = []
    turns: list[Turn] = []
    for number in range(arguments.concepts):
        rng = np.random.default_rng([arguments.seed, 90, number])
        concept = unsealed(rng, KINDS[number % len(KINDS)])
        folder = arguments.work_dir / FOLDER / arguments.name / f"{number:02}"
        before = len(turns)
        for image, turn in looked_at(models, concept, folder, arguments.every):
            images.append(image)
            turns.append(turn)
        told = [turn.answer for turn in turns[before:]]
        asked = f"{concept.prompt!r}, {concept.questions[-1].question!r}"
        shares = f"{told.count(NO)} images are not so, {told.count(YES)} are"
        print(f"{number + 1}/{arguments.concepts}  {asked}: {shares}", flush=True)
    if not turns:
        raise SystemExit("error: of no image anything could be told; more --concepts, or more --steps")
    path = arguments.work_dir / FOLDER / f"{arguments.name}.npz"
    FoolingImages(np.stack(images), turns).save(path)
    print(f"{len(turns)} images: {path}")


def unsealed(rng: np.random.Generator, kind: str) -> Concept:
    """One that asks for nothing that a known pair implies: those are for measuring."""
    splits: tuple[Split, ...] = ("dev", "test")
    implied = [bare(told) for split in splits for pair in known_pairs(split) for told in pair.descriptions]
    while True:
        concept = sample_concept(rng, kind)
        if not any(words in concept.questions[-1].question for words in implied):
            return concept


if __name__ == "__main__":
    run_command(main)
