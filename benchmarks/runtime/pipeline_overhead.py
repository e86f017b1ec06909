"""What does the pipeline itself cost, beside the work of its models?

    python -m benchmarks.runtime.pipeline_overhead

micro: 24 prompts, ten images each, the local runtime. Overhead is the wall time of the run without the loading of
models and without the time inside `Stage.__call__`, as a share of the wall time without loading.

1024 px: GenerateCandidates with a stand-in generator that takes as long as FLUX takes on an H100, 7.18 s an image, and
hands out ready-made pixels. All else is as in the `flux` preset: PNG encoding, block commits, reading for the next
stage, pairing, JPEG shards; staged, ten images a prompt, four prompts a unit. Overhead is the wall time without the
loading, the stand-in's time and the check, as a share of the wall time without loading. Pictures that compress as
photographs do and, with `--pictures noise`, random ones; every prompt ships its two pairs, more than a real run does.
"""

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.dataset.synthetic_images import noise, photo_like
from benchmarks.results_file import Circumstances, print_table, save
from inference.flux.generator import FluxGeneratorConfig
from inference.generator import GeneratorConfig
from pipelines import pack_shards as packing
from pipelines import run_folder
from pipelines.driver import RunOptions, drive
from pipelines.new_run import new_dataset_run as create_run
from pipelines.pack_shards import PackShardsConfig
from pipelines.runtime import local
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.stage import Link
from pipelines.stages import candidate_images
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from pipelines.stages.ground_objects import GroundObjects
from pipelines.stages.select_pairs import SelectPairs
from recipes import micro
from tests.support.toy_job import CheckColors, ToyConfig, create

FLUX_S_PER_IMAGE = 7.18
"""30 steps, where 28 take 6.7 s (published for an H100, diffusers eager; our own compiled figure is 4.13 s)."""
SIZE_PX, UNIT_SIZE = 1024, 4
TARGET_MICRO, TARGET_FLUX = 0.15, 0.02
RED, BLUE = (40, 0, -40), (-40, 0, 40)
DRAWN = {"noise": noise, "photo_like": photo_like}


class StandIn:
    """Ready-made pictures, red and blue ones in turn, each after the time that FLUX takes for one."""

    def __init__(self, pictures: str) -> None:
        self.ready = [DRAWN[pictures](seed, SIZE_PX, (RED, BLUE)[seed % 2]) for seed in range(6)]

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sizes: object = None) -> Iterator[np.ndarray]:
        """See `FluxGenerator.draw`."""
        for number in range(len(seeds)):
            self.wait()
            yield self.ready[number % len(self.ready)]

    def wait(self) -> None:
        """As for a GPU: the core is free."""
        time.sleep(FLUX_S_PER_IMAGE)


@dataclass(frozen=True)
class StandInConfig(GenerateCandidatesConfig):
    """pictures: which of `DRAWN`."""

    pictures: str = "photo_like"


class Generate(GenerateCandidates):
    """GenerateCandidates with the stand-in."""

    def load(self) -> None:
        self.generator = StandIn(self.config.pictures)


@dataclass(frozen=True)
class DrawnConfig(ToyConfig):
    """The flux preset's first stage and shape; the toy's check, which needs no model."""

    unit_size: int = UNIT_SIZE
    generate: StandInConfig = field(default_factory=StandInConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        _, check, select = super().links()["rule"]
        return {"rule": [Link(Generate, self.generate), check, select]}


@contextmanager
def timed(places: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[dict[str, float]]:
    """Seconds spent in functions and methods (owner, attribute), summed by name."""
    seconds: dict[str, float] = defaultdict(float)
    originals = [(owner, name, getattr(owner, name)) for found in places.values() for owner, name in found]

    def watch(label: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                seconds[label] += time.perf_counter() - started

        return call

    for label, found in places.items():
        for owner, name in found:
            setattr(owner, name, watch(label, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def measure_micro(num_prompts: int) -> dict[str, Any]:
    """The micro preset, from an empty folder."""
    config = replace(micro.dataset(), num_prompts=num_prompts)
    stages = (GenerateCandidates, GroundObjects, SelectPairs)
    places = {stage.name: [(stage, "__call__")] for stage in stages} | {"load": [(UnitWorker, "stage")]}
    with tempfile.TemporaryDirectory() as folder, timed(places) as seconds:
        began = time.perf_counter()
        run = create_run(f"{folder}/run", "micro", config)
        created = time.perf_counter()
        assert drive(run, config, RunOptions(quiet=True))
        wall_s = time.perf_counter() - created
    load_s = seconds.pop("load")
    overhead_s = wall_s - load_s - sum(seconds.values())
    images = num_prompts * config.generate.candidates_per_prompt
    return {
        "prompts": num_prompts,
        "images": images,
        "create_s": round(created - began, 2),
        "load_s": round(load_s, 2),
        "wall_without_load_s": round(wall_s - load_s, 2),
        "stages_s": {name: round(value, 2) for name, value in seconds.items()},
        "overhead_s": round(overhead_s, 3),
        "overhead_ms_per_image": round(1000 * overhead_s / images, 2),
        "share": round(overhead_s / (wall_s - load_s), 4),
    }


def measure_1024(pictures: str, num_units: int) -> dict[str, Any]:
    """Wall time that is neither drawing nor checking."""
    generate = StandInConfig(generator=GeneratorConfig("flux", FluxGeneratorConfig("stand-in")), pictures=pictures)
    config = DrawnConfig(num_prompts=num_units * UNIT_SIZE, generate=generate)
    places = {
        "load": [(UnitWorker, "stage")],
        "draw": [(StandIn, "wait")],
        "check": [(CheckColors, "__call__")],
        "encode_png_beside_drawing": [(candidate_images, "encode_png")],
        "commit": [(run_folder.RunFolder, "write_block")],
        "read_images": [(run_folder.RunFolder, "with_images")],
        "pack": [(local, "pack_shard")],
        "encode_jpeg_in_pack": [(packing, "encode_jpeg")],
    }
    with tempfile.TemporaryDirectory() as folder, timed(places) as seconds:
        run = create(f"{folder}/run", config)
        started = time.perf_counter()
        assert drive(run, config, RunOptions(quiet=True, schedule="staged"))
        wall_s = time.perf_counter() - started - seconds.pop("load")
        sidecar = run.sidecar(0)
    images = config.num_prompts * generate.candidates_per_prompt
    draw_s, check_s = seconds.pop("draw"), seconds.pop("check")
    overhead_s = wall_s - draw_s - check_s
    return {
        "images": images,
        "pairs": sidecar.num_samples if sidecar else 0,
        "wall_without_load_s": round(wall_s, 2),
        "draw_s": round(draw_s, 2),
        "check_s": round(check_s, 2),
        "overhead_s": round(overhead_s, 2),
        "overhead_ms_per_image": round(1000 * overhead_s / images, 1),
        "parts_s_per_image": {name: round(value / images, 4) for name, value in seconds.items()},
        # What the check takes here is no part of either side: on a GPU it takes what GroundingDINO and SAM take.
        "share": round(overhead_s / (wall_s - check_s), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--units", type=int, default=1, help="units of 40 images of 1024 px, five minutes each")
    parser.add_argument("--pictures", nargs="+", choices=list(DRAWN), default=["photo_like"])
    arguments = parser.parse_args()
    circumstances = Circumstances.now("python -m benchmarks.runtime.pipeline_overhead")
    figures: dict[str, Any] = {"micro": measure_micro(arguments.prompts)}
    for pictures in arguments.pictures:
        figures[f"1024_{pictures}"] = measure_1024(pictures, arguments.units)
    rows = []
    for name, row in figures.items():
        target = TARGET_MICRO if name == "micro" else TARGET_FLUX
        cost = f"{row['overhead_ms_per_image']:.0f} ms"
        rows.append([f"{name}, local", row["images"], cost, f"{row['share']:.1%}", f"{target:.0%}"])
    print_table(["", "images", "overhead an image", "share", "target below"], rows)
    for name, row in figures.items():
        print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in (row.get("stages_s") or row["parts_s_per_image"]).items()))
    save(
        "pipeline_overhead",
        circumstances,
        figures,
        f"micro: time inside stages in the same run; 1024 px: {FLUX_S_PER_IMAGE} s, FLUX.1-dev at 30 steps on an H100, "
        f"slept for each image in the same run",
        target={"micro": TARGET_MICRO, "1024": TARGET_FLUX},
    )


if __name__ == "__main__":
    main()
