"""Is the memory of a search's driver flat in the number of prompts?

    python -m benchmarks.search.search_memory [--num-prompts 500 2000 8000]

The real command, run folder, blocks and evaluation, each size in a process of its own; only the models are replaced: an
image is one grey square by its seed, its score is a number, and the judge says yes to the bright ones. Peak memory is
taken when the driver has made the last unit, and again when the evaluation is written. Saves
benchmarks/results/search_memory.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from benchmarks.runtime.decide_what_is_left import peak_gib
from commands.search import start_search
from inference.interfaces import OneCallAnImage
from inference.judges.geneval_scoring import ScoreThresholds
from inference.judges.judge import JudgeConfig
from inference.search import SearchConfig, SearchTools
from inference.search_tools import SearchToolsConfig
from pipelines.driver import drive
from pipelines.evaluation import write_evaluation
from recipes import catalogue
from schemas.records import DetectedObject, PromptRecord

TARGET = "the driver: less than 1 KiB a prompt"


@dataclass(frozen=True)
class Arguments:
    """Sizes."""

    num_prompts: tuple[int, ...] = (500, 2000, 8000)
    """Of each search; the first is what the others are compared with."""
    depth: int = 2
    """Rounds of two images."""
    child: str = ""
    """Folder of one measurement, in a process of its own."""


class Grey(OneCallAnImage):
    """Generator, verifier and judge."""

    thresholds = ScoreThresholds()
    known_classes = frozenset({"star"})
    known_colors = frozenset({"red"})

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sizes: object = None) -> list[np.ndarray]:
        """One grey square a seed."""
        return list(self.draw(prompts, seeds))

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sizes: object = None) -> Iterator[np.ndarray]:
        """The same, one by one."""
        return (np.full((8, 8, 3), seed % 251, np.uint8) for seed in seeds)

    def warm_up(self, sizes: object = ()) -> None:
        """Nothing to do."""

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """Brightness."""
        return np.array([image.mean() for image in images], np.float32)

    def find_objects(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord] | None = None
    ) -> list[list[DetectedObject]]:
        """A red star in every bright image."""
        star = DetectedObject("star", 0.99, (1.0, 1.0, 6.0, 6.0), color="red")
        return [[star] if image.mean() > 125 else [] for image in images]


def measure(folder: Path, num_prompts: int, depth: int) -> dict[str, float]:
    """Peak memory of this process, MiB: before the search, of driving it, and with its evaluation."""
    (folder / "prompts.txt").write_text("a photo of a red star\n" * num_prompts)
    job, options = catalogue.load("micro-paper", "search"), catalogue.load("micro-paper", "run_options")
    job = replace(job, prompts=str(folder / "prompts.txt"), search=SearchConfig(2, depth, "noise"))
    grey = Grey()
    with (
        mock.patch.object(SearchToolsConfig, "open", return_value=SearchTools(grey, grey)),
        mock.patch.object(JudgeConfig, "open", return_value=grey),
    ):
        before = peak_mib()
        run = start_search(str(folder / "run"), "micro", job, replace(options, quiet=True))
        assert drive(run, job, replace(options, quiet=True))
        driven = peak_mib()
        write_evaluation(run, job)
    return {"before": before, "driven": driven, "evaluated": peak_mib()}


def peak_mib() -> float:
    """Of this process so far."""
    return round(2**10 * peak_gib(), 1)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.child:
        found = measure(Path(arguments.child), arguments.num_prompts[0], arguments.depth)
        (Path(arguments.child) / "found.json").write_text(json.dumps(found))
        return
    sizes = " ".join(str(n) for n in arguments.num_prompts)
    circumstances = Circumstances.now(
        f"python -m benchmarks.search.search_memory --num-prompts {sizes} --depth {arguments.depth}"
    )
    rows: list[dict[str, float]] = []
    for number in arguments.num_prompts:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--num-prompts", str(number), "--depth", str(arguments.depth), "--child", folder]
            subprocess.run([sys.executable, "-m", "benchmarks.search.search_memory", *words], check=True)
            found = json.loads((Path(folder) / "found.json").read_text())
        row: dict[str, float] = {"num_prompts": number, **found}
        for name in ("driven", "evaluated") if rows else ():
            more = found[name] - rows[0][name]
            row[f"{name}_kib_a_prompt"] = round(2**10 * more / (number - rows[0]["num_prompts"]), 3)
        rows.append(row)
        print(row, flush=True)
    names = ["num_prompts", "before", "driven", "evaluated", "driven_kib_a_prompt", "evaluated_kib_a_prompt"]
    print_table(["prompts", *(n.replace("_", " ") for n in names[1:])], [[r.get(n, "") for n in names] for r in rows])
    save("search_memory", circumstances, {"depth": arguments.depth, "rows": rows}, "the smallest search", TARGET)


if __name__ == "__main__":
    run_command(main)
