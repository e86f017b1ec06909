"""How much of a taught LoRA is enough? `python -m benchmarks.dual_process.lora_strength`, after `dual_process_tables
--set known --settings multi-step --kinds base --asked whole --learning-rate 1.5e-3` has made the LoRAs.

Each LoRA of the dev pairs of known words at several strengths: on the seeds that the table is of, the share of images
that the judge finds right, and of unrelated prompts, both against the generator without it. 95 % intervals over pairs.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.dual_process.dual_process_tasks import Tables, Task
from benchmarks.dual_process.known_pairs import known_pairs
from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.flux.generator import FluxGenerator
from inference.judges.intervals import Interval, mean_over_tags
from microworld.family import micro_flux
from microworld.scenes.evaluation_split import evaluation_seed
from schemas.errors import InputError
from schemas.terminal import say
from trainers.dual_process_config import DualProcessConfig


@dataclass(frozen=True)
class Arguments:
    """Which strengths."""

    strengths: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    learning_rate: float = 1.5e-3
    """That the LoRAs were made with."""
    tries: int = 8
    """Images of each prompt."""
    loras: Path = Path("runs/dual_process_tables")
    """The table's --out."""


def measure(arguments: Arguments) -> dict[str, Any]:
    """Figures by strength. InputError for LoRAs that are not there."""
    pairs = known_pairs("dev")
    tables = Tables(
        "multi-step",
        pairs,
        arguments.tries,
        arguments.loras,
        described="whole",
        learning_rate=arguments.learning_rate,
    )
    right: dict[float, list[float]] = {}
    kept: dict[float, list[float]] = {}
    numbers: list[int] = []
    for number, side in product(range(len(pairs)), (0, 1)):
        task = Task("multi-step", number, side, "base")
        folder = tables.folder(task)
        if not (folder / "result.json").is_file():
            raise InputError("no LoRA there", file=str(folder), expected="what the command in the help text makes")
        numbers.append(number)
        for strength in (0.0, *arguments.strengths):
            fits, unrelated = _drawn(tables, task, folder, strength, arguments.tries)
            right.setdefault(strength, []).append(fits)
            kept.setdefault(strength, []).append(unrelated)
        say(f"{len(numbers)}/{2 * len(pairs)}  {task.name}")
    none = (right.pop(0.0), kept.pop(0.0))

    def change(values: list[float], before: list[float]) -> Interval:
        return mean_over_tags(np.subtract(values, before).tolist(), ["all"] * len(values), numbers)

    return {
        f"{strength:g}": {
            "images right": change(right[strength], none[0]).as_list(4),
            "unrelated prompts right": change(kept[strength], none[1]).as_list(4),
        }
        for strength in arguments.strengths
    }


def _drawn(tables: Tables, task: Task, folder: Path, strength: float, tries: int) -> tuple[float, float]:
    """Shares that are right: of the taught prompt's images, and of unrelated prompts."""
    config: DualProcessConfig = tables.models.config
    pair, unrelated = tables.pairs[task.pair], tables.unrelated(task.pair)
    flux = micro_flux(lora=str(folder), lora_strength=strength, batch_size=32)
    seeds = [config.evaluation_seed + i for i in range(tries)]
    seeds += [evaluation_seed(record.prompt_id) for record in unrelated]
    prompts = [tables.concept(task).prompt] * tries + [record.text for record in unrelated]
    images = list(FluxGenerator(flux).generate(prompts, seeds))
    own, other = pair.descriptions[task.side], pair.descriptions[1 - task.side]
    fits = tables.judge.fits(images[:tries], [own] * tries, [other] * tries)
    return float(np.mean(fits)), float(np.mean(tables.right_images(unrelated, images[tries:])))


def main() -> None:
    import torch

    torch.set_num_threads(1)
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now(f"python -m benchmarks.dual_process.lora_strength {shlex.join(sys.argv[1:])}")
    figures = measure(arguments)
    names = ("images right", "unrelated prompts right")
    rows = [[s, *[Interval.from_list(row[name]).shown("+.3f") for name in names]] for s, row in figures.items()]
    print_table(["strength", *names], rows)
    print(save("lora_strength", circumstances, figures, "the generator without the LoRA", "unrelated -.03 at most"))


if __name__ == "__main__":
    run_command(main)
