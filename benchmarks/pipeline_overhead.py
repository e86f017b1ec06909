"""What does the pipeline itself cost, beside the work of its models?

    python -m benchmarks.pipeline_overhead

micro: 24 prompts, ten images each, the local runtime. Overhead is the wall time of the run without the loading of
models and without the time inside `Stage.__call__`, as a share of the wall time without loading.

1024 px: what becomes of an image besides being drawn and looked at, against the 7.5 s that FLUX takes to draw it on an
H100. A stage hands out ready-made pixels; PNG encoding, block commits, reading for the next stage, pairing and packing
into JPEG shards are as in the `flux` preset (staged; ten images a prompt, four prompts a unit). Random noise and
pictures that compress as photographs do; every prompt ships its two pairs, more than a real run does.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from benchmarks.results_file import Circumstances, print_table, save
from benchmarks.synthetic_images import noise, photo_like
from pipelines import pack_shards as packing
from pipelines import run_folder
from pipelines.commands.run import create as create_run
from pipelines.driver import RunOptions, drive
from pipelines.pack_shards import PackShardsConfig
from pipelines.presets import micro
from pipelines.runtime import local
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.stage import Link
from pipelines.stages.generate_candidates import GenerateCandidates
from pipelines.stages.ground_objects import GroundObjects
from pipelines.stages.select_pairs import SelectPairs
from schemas.configuration import stable_seed
from schemas.images import encode_png, sha256
from schemas.records import Candidate, Cost, PromptRow
from tests.pipelines.toy_job import CheckColors, DrawConfig, DrawSquares, ToyConfig, create

FLUX_S_PER_IMAGE = 7.5
SIZE_PX, CANDIDATES, UNIT_SIZE = 1024, 10, 4
TARGET_MICRO, TARGET_FLUX = 0.15, 0.02
RED, BLUE = (40, 0, -40), (-40, 0, 40)
DRAWN = {"noise": noise, "photo_like": photo_like}


@dataclass(frozen=True)
class NoiseConfig(DrawConfig):
    """pictures: which of `DRAWN`."""

    pictures: str = "noise"


class HandOut(DrawSquares):
    """Ready-made pictures, red and blue ones in turn, encoded as GenerateCandidates encodes FLUX's."""

    name: ClassVar[str] = "draw_squares"

    def load(self) -> None:
        self.ready: list[np.ndarray] = [
            DRAWN[self.config.pictures](seed, SIZE_PX, (RED, BLUE)[seed % 2]) for seed in range(6)
        ]

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return [self._hand_out(row) for row in rows]

    def _hand_out(self, row: PromptRow) -> PromptRow:
        candidates = []
        for index in range(CANDIDATES):
            png = encode_png(self.ready[index % len(self.ready)])
            seed = stable_seed(self.seed, row.prompt.prompt_id, index)
            candidates.append(Candidate(index, seed, row.prompt.text, 1, SIZE_PX, SIZE_PX, sha256(png), png))
        return replace(row, candidates=tuple(candidates), cost=Cost(generations=CANDIDATES))


@dataclass(frozen=True)
class HandOutConfig(ToyConfig):
    """The flux preset's shape on the toy's stages."""

    unit_size: int = UNIT_SIZE
    draw: NoiseConfig = field(default_factory=NoiseConfig)
    pack: PackShardsConfig = field(default_factory=PackShardsConfig)

    def links(self) -> dict[str, list[Link]]:
        _, check, select = super().links()["rule"]
        return {"rule": [Link(HandOut, self.draw), check, select]}


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
    config = replace(micro().dataset, num_prompts=num_prompts)
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
    """Seconds an image of everything but drawing it and looking at it."""
    config = HandOutConfig(num_prompts=num_units * UNIT_SIZE, draw=NoiseConfig(pictures=pictures, size_px=SIZE_PX))
    places = {
        "load": [(UnitWorker, "stage")],
        "encode_png": [(sys.modules[__name__], "encode_png")],
        "commit": [(run_folder.RunFolder, "write_block")],
        "read_images": [(run_folder.RunFolder, "with_images")],
        "pack": [(local, "pack_shard")],
        "encode_jpeg_in_pack": [(packing, "encode_jpeg")],
        "check": [(CheckColors, "__call__")],
    }
    with tempfile.TemporaryDirectory() as folder, timed(places) as seconds:
        run = create(f"{folder}/run", config)
        started = time.perf_counter()
        assert drive(run, config, RunOptions(quiet=True, schedule="staged"))
        wall_s = time.perf_counter() - started
        sidecar = run.sidecar(0)
    images = config.num_prompts * CANDIDATES
    overhead_s = wall_s - seconds.pop("load") - seconds.pop("check")
    per_image = overhead_s / images
    return {
        "images": images,
        "pairs": sidecar.num_samples if sidecar else 0,
        "s_per_image": round(per_image, 4),
        "parts_s_per_image": {name: round(value / images, 4) for name, value in seconds.items()},
        "share": round(per_image / FLUX_S_PER_IMAGE, 4),
        "share_without_png": round((per_image - seconds["encode_png"] / images) / FLUX_S_PER_IMAGE, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--units", type=int, default=1, help="units of 40 images of 1024 px")
    arguments = parser.parse_args()
    circumstances = Circumstances.now("python -m benchmarks.pipeline_overhead")
    figures: dict[str, Any] = {"micro": measure_micro(arguments.prompts)}
    for pictures in DRAWN:
        figures[f"1024_{pictures}"] = measure_1024(pictures, arguments.units)
    rows = [
        [
            "micro, local",
            figures["micro"]["images"],
            f"{figures['micro']['overhead_ms_per_image']:.0f} ms",
            f"{figures['micro']['share']:.1%}",
            f"{TARGET_MICRO:.0%}",
        ]
    ]
    for pictures in DRAWN:
        row = figures[f"1024_{pictures}"]
        cost = f"{1000 * row['s_per_image']:.0f} ms"
        rows.append(
            [f"1024 px, {pictures}, of 7.5 s", row["images"], cost, f"{row['share']:.1%}", f"{TARGET_FLUX:.0%}"]
        )
    print_table(["", "images", "overhead an image", "share", "target below"], rows)
    for name, row in figures.items():
        print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in (row.get("stages_s") or row["parts_s_per_image"]).items()))
    save(
        "pipeline_overhead",
        circumstances,
        figures,
        f"micro: time inside stages in the same run; 1024 px: {FLUX_S_PER_IMAGE} s, FLUX.1-dev at 30 steps on an H100",
        target={"micro": TARGET_MICRO, "1024": TARGET_FLUX},
    )


if __name__ == "__main__":
    main()
