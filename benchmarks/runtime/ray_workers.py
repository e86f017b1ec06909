"""Does a second Ray worker double a stage's throughput, and what does Ray cost beside the local runtime?

    python -m benchmarks.runtime.ray_workers [--units 24] [--repetitions 3]

The toy job with a draw stage that only sleeps, as one that waits for a GPU does, so that two workers fit on two cores.
Local, Ray with one worker, Ray with two, turn by turn, medians. Throughput is that of the second half of the draw
stage's blocks, by the times of their files: all workers are up by then. Wall time has everything, actors' start too.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.results_file import Circumstances, print_table, save
from pipelines.driver import RunOptions, drive
from pipelines.stage import Link, Workers
from schemas.records import PromptRow
from tests.support import toy_runs
from tests.support.toy_job import CheckColors, DrawConfig, DrawSquares, ToyConfig, create

SLEEP_S = 0.4
TARGET_RATIO = 1.8


class SleepyDraw(DrawSquares):
    """Draws after a sleep, during which a core is free."""

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        time.sleep(SLEEP_S)
        return super().__call__(rows)


@dataclass(frozen=True)
class SleepyConfig(ToyConfig):
    """The toy job with the draw stage that sleeps."""

    def links(self) -> dict[str, list[Link]]:
        _, check, select = super().links()["rule"]
        assert check.stage is CheckColors
        return {"rule": [Link(SleepyDraw, self.draw), check, select]}


@dataclass(frozen=True)
class Turn:
    """One run."""

    units_per_s: float
    wall_s: float


@dataclass(frozen=True)
class Row:
    """Medians of a kind of run."""

    runtime: str
    workers: int
    units_per_s: float
    share_of_ideal: float
    """Of workers / SLEEP_S."""
    wall_s: float
    turns: tuple[Turn, ...]


def run_once(folder: Path, runtime: str, workers: int, num_units: int) -> Turn:
    """A fresh run."""
    draw = DrawConfig(workers=Workers(count=workers))
    config = SleepyConfig(num_prompts=4 * num_units, draw=draw)
    run = create(str(folder), config)
    started = time.perf_counter()
    assert drive(run, config, RunOptions(runtime="ray" if runtime == "ray" else "local", quiet=True))
    wall_s = time.perf_counter() - started
    times = sorted(time_ns for _, time_ns in toy_runs.stamps(folder, "draw_squares").values())
    half = times[len(times) // 2 :]
    return Turn(round((len(half) - 1) / (half[-1] - half[0]) * 1e9, 3), round(wall_s, 2))


def summary(runtime: str, workers: int, turns: Sequence[Turn]) -> Row:
    """Medians."""
    rate = statistics.median(turn.units_per_s for turn in turns)
    wall_s = statistics.median(turn.wall_s for turn in turns)
    return Row(runtime, workers, rate, round(rate * SLEEP_S / workers, 3), wall_s, tuple(turns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    circumstances = Circumstances.now("python -m benchmarks.runtime.ray_workers")
    os.environ.pop("TOY_SLEEP_S", None)
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray gives workers way to all else on the machine
    import ray

    from pipelines.runtime.ray import connect

    connect()
    kinds = [("local", 1), ("ray", 1), ("ray", 2)]
    turns: dict[tuple[str, int], list[Turn]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.repetitions):
            for runtime, workers in kinds:
                path = Path(folder) / f"{turn}_{runtime}_{workers}"
                turns[runtime, workers].append(run_once(path, runtime, workers, arguments.units))
        shards = [toy_runs.shards(path) for path in Path(folder).iterdir()]
    ray.shutdown()
    rows = [summary(runtime, workers, turns[runtime, workers]) for runtime, workers in kinds]
    local, one, two = rows
    figures = {
        "units": arguments.units,
        "sleep_s": SLEEP_S,
        "rows": [asdict(row) for row in rows],
        "throughput_two_workers_to_one": round(two.units_per_s / one.units_per_s, 3),
        "throughput_ray_to_local": round(one.units_per_s / local.units_per_s, 3),
        "ray_start_s": round(one.wall_s - arguments.units / one.units_per_s, 1),
        "same_shards": all(other == shards[0] for other in shards),
    }
    print_table(
        ["runtime", "workers", "units/s", "of ideal", "wall"],
        [[r.runtime, r.workers, f"{r.units_per_s:.2f}", f"{r.share_of_ideal:.0%}", f"{r.wall_s:.1f} s"] for r in rows],
    )
    print(
        f"two workers to one: {figures['throughput_two_workers_to_one']:.2f} (target {TARGET_RATIO}); "
        f"Ray with one worker to local: {figures['throughput_ray_to_local']:.2f}; "
        f"a run's actors take about {figures['ray_start_s']:.0f} s to start; same shards: {figures['same_shards']}"
    )
    compared = "one worker against two, and Ray against the local runtime, turn by turn, medians"
    save("ray_workers", circumstances, figures, compared, target={"throughput_two_workers_to_one": TARGET_RATIO})


if __name__ == "__main__":
    main()
