"""What several units under way at once are worth: pairs an hour of the stages that ask a VLM, one unit at a time and
several, by the same vLLM in one run.

`python -m benchmarks.runtime.asking_units` makes an annotated run of the micro models, then takes what its VLM stages
made away and has it made again, turn by turn: `--asking-units 1`, and 8. One vLLM answers throughout and keeps nothing
of what it read; the journal is emptied each time. A unit has 4 prompts, as production's have.
"""

import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from benchmarks.results_file import Circumstances, print_table, run_command, save
from inference.vlm.vllm_server import VllmServer
from pipelines.conservation import tally
from pipelines.driver import RunOptions, drive
from pipelines.jobs import DatasetConfig
from pipelines.new_run import new_dataset_run
from pipelines.run_folder import RunFolder
from recipes import catalogue

ASKING = ("condense_prompts", "caption_images", "write_reflections", "filter_pairs")
MORE = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")
"""Arguments of vLLM with which the second way has nothing from the first."""


@dataclass(frozen=True)
class Arguments:
    """How large the run is, and which numbers of units are compared."""

    num_prompts: int = 64
    """Of each subset."""
    units: tuple[int, ...] = (1, 8)
    """Units under way at once."""
    repeats: int = 2
    """Turns of all of them."""
    run: Path = Path("runs/asking_units")
    """The run folder, begun anew."""


def config_of(arguments: Arguments) -> DatasetConfig:
    """Long prompts and edits, so that every stage that asks a VLM has something to do; what is turned down is asked as
    well."""
    config: DatasetConfig = catalogue.load("micro", "dataset")
    vlm = replace(config.vlm, kind="vllm", concurrency=64, vllm_arguments=(*config.vlm.vllm_arguments, *MORE))
    return replace(
        config,
        subsets=("length", "editing"),
        num_prompts=arguments.num_prompts,
        unit_size=4,
        annotate=True,
        vlm=vlm,
        pair=replace(config.pair, min_margin=0.0),
        reflect=replace(config.reflect, keep_given=()),
        filter=replace(config.filter, min_margin=-1000.0),
    )


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    circumstances = Circumstances.now("python -m benchmarks.runtime.asking_units")
    shutil.rmtree(arguments.run, ignore_errors=True)
    config = config_of(arguments)
    folder = new_dataset_run(str(arguments.run), "micro", config)
    server = VllmServer(config.vlm.server)  # held, so that it outlives the stages
    server.ensure()
    drive(folder, config, RunOptions(schedule="staged"))
    shards = _shards(arguments.run)
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    questions = 0
    for _ in range(arguments.repeats):
        for units in arguments.units:
            seconds[units].append(_asked_again(config, arguments.run, units))
            questions = len(list((arguments.run / "journal").rglob("*.json")))
            assert _shards(arguments.run) == shards, "other bytes"
    server.close()
    pairs = tally(folder, config).pairs["shipped"]
    best = {units: min(times) for units, times in seconds.items()}
    first = best[arguments.units[0]]
    rows = [
        [f"{u} at once", f"{s:.1f}", f"{questions / s:.1f}", f"{3600 * pairs / s:,.0f}", f"{first / s:.2f}"]
        for u, s in best.items()
    ]
    print_table(["units", "seconds of the VLM stages", "questions a second", "pairs an hour", "times"], rows)
    figures = {
        "pairs": pairs,
        "questions": questions,
        "seconds": {str(units): [round(s, 2) for s in times] for units, times in seconds.items()},
        "pairs_per_hour": {str(units): round(3600 * pairs / s) for units, s in best.items()},
        "gain": {str(units): round(first / s, 2) for units, s in best.items()},
    }
    save("asking_units", circumstances, figures, "one unit at a time, by the same vLLM in the same run")


def _asked_again(config: DatasetConfig, run: Path, units: int) -> float:
    for stage in ASKING:
        shutil.rmtree(run / "stages" / stage)
    shutil.rmtree(run / "journal")
    folder = RunFolder.open(str(run))  # anew: the one before remembers which folders there were
    started = time.monotonic()
    drive(folder, config, RunOptions(schedule="staged", asking_units=units, quiet=True))
    return time.monotonic() - started


def _shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "shards").glob("*.tar"))}


if __name__ == "__main__":
    run_command(main)
