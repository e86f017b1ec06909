"""A dataset run without models: draw small coloured squares, look at their pixels, pair them with the real SelectPairs.

Everything is a function of (run seed, prompt id, candidate index). What goes wrong is asked for by the environment, so
that it changes no key and can pass:

    TOY_FAIL=p003,p007        these prompts raise ValueError while they are drawn (TOY_FAIL_CHECK: while checked)
    TOY_TRANSIENT=3           the first 3 calls of a stage raise TransientError
    TOY_MEMORY=2              MemoryError until the micro-batch is at most 2 images
    TOY_HANG=p003             nobody ever comes back with these prompts while they are drawn
    TOY_HANG_UNTIL=FILE       or not before this file is there
    TOY_DIE=p003              these end their process while they are drawn
    TOY_SLEEP_S=0.05          every call of a stage takes so long
    TOY_LIMIT_S=2             of a unit (`FailurePolicy.unit_limit_s`)
    TOY_CALLS=FILE            a line "stage prompt_id prompt_id ..." for every call

`python -m tests.support.toy_job RUN` starts or goes on with a run, with the exit codes of `python -m pipelines`.
"""

import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from inference.grounding.check import check_objects
from pipelines.driver import RunOptions, drive
from pipelines.intake import lay_out
from pipelines.pack_shards import PackShardsConfig
from pipelines.run_folder import FORMAT, RunFolder, RunInfo, root_key
from pipelines.runtime.failures import FailurePolicy
from pipelines.stage import Link, Stage, Workers
from pipelines.stages.select_pairs import DifficultyTertiles, SelectPairs, SelectPairsConfig
from schemas.arrow import record_from_dict
from schemas.configuration import execution_field, stable_seed
from schemas.errors import ReflectionFlowError, TransientError
from schemas.images import decode_image, encode_png, sha256
from schemas.records import Candidate, Cost, DetectedObject, ObjectClause, PromptRecord, PromptRow
from schemas.storage import Storage

RED, BLUE = (230, 20, 20), (20, 20, 230)


@dataclass(frozen=True)
class DrawConfig:
    """micro_batch: images drawn at once."""

    candidates_per_prompt: int = 4
    size_px: int = 8
    micro_batch: int = execution_field(8)
    workers: Workers = execution_field(Workers())


class DrawSquares(Stage):
    """Red squares, or blue ones by mistake: the more often, the harder the prompt."""

    name: ClassVar[str] = "draw_squares"
    version: ClassVar[int] = 1
    makes_images: ClassVar[bool] = True

    def __init__(self, config: DrawConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        self.micro_batch = config.micro_batch
        self.trouble = Trouble(self.name, "TOY_FAIL")

    def shrink(self) -> bool:
        if self.micro_batch == 1:
            return False
        self.micro_batch //= 2
        return True

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        self.trouble.come(rows)
        if self.micro_batch > int(os.environ.get("TOY_MEMORY", self.micro_batch)):
            raise MemoryError(f"{self.micro_batch} images at once")
        return [self._draw(row) for row in rows]

    def _draw(self, row: PromptRow) -> PromptRow:
        prompt = row.prompt.prompt_id
        right = random.Random(stable_seed(self.seed, prompt)).uniform(0.1, 0.9)
        candidates = []
        for index in range(self.config.candidates_per_prompt):
            seed = stable_seed(self.seed, prompt, index)
            draw = np.random.default_rng(seed)
            color = RED if draw.random() < right else BLUE
            noise = draw.integers(-20, 20, (self.config.size_px, self.config.size_px, 3))
            png = encode_png((np.array(color) + noise).clip(0, 255).astype(np.uint8))
            size = self.config.size_px
            candidates.append(Candidate(index, seed, row.prompt.text, 1, size, size, sha256(png), png))
        return replace(row, candidates=tuple(candidates), cost=Cost(generations=len(candidates)))


@dataclass(frozen=True)
class CheckConfig:
    """threshold: how much redder than blue a red square is, in [0, 255]."""

    threshold: int = 0
    workers: Workers = execution_field(Workers())


class CheckColors(Stage):
    """Names the colour of the square by its mean pixel."""

    name: ClassVar[str] = "check_colors"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True

    def __init__(self, config: CheckConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        self.trouble = Trouble(self.name, "TOY_FAIL_CHECK")

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        self.trouble.come(rows)
        return [self._check(row) for row in rows]

    def _check(self, row: PromptRow) -> PromptRow:
        candidates = []
        for candidate in row.candidates:
            assert candidate.image is not None
            red, _, blue = decode_image(candidate.image, row.prompt.prompt_id).mean(axis=(0, 1))
            color = "red" if red - blue > self.config.threshold else "blue"
            size = float(candidate.width_px)
            found = DetectedObject("square", round(abs(red - blue) / 255, 6), (0.0, 0.0, size, size), color)
            candidates.append(replace(candidate, check=check_objects(row.prompt, [found])))
        return replace(row, candidates=tuple(candidates), cost=Cost(detector_calls=len(candidates)))


class Trouble:
    """What the environment asks to go wrong in a stage."""

    def __init__(self, stage: str, fail_variable: str) -> None:
        self.stage, self.fail_variable = stage, fail_variable
        self.transient = int(os.environ.get("TOY_TRANSIENT", 0))

    def come(self, rows: Sequence[PromptRow]) -> None:
        ids = [row.prompt.prompt_id for row in rows]
        if path := os.environ.get("TOY_CALLS"):
            with open(path, "a") as file:
                file.write(" ".join([self.stage, *ids]) + "\n")
        if self.fail_variable == "TOY_FAIL":
            if _names("TOY_DIE", ids):
                os._exit(9)
            while _names("TOY_HANG", ids) and not os.path.exists(os.environ.get("TOY_HANG_UNTIL", "")):
                time.sleep(0.05)
        if "TOY_SLEEP_S" in os.environ:
            time.sleep(float(os.environ["TOY_SLEEP_S"]))
        if self.transient:
            self.transient -= 1
            raise TransientError("the toy endpoint is away")
        if _names(self.fail_variable, ids):
            raise ValueError("the toy cannot do this one")


def _names(variable: str, ids: Sequence[str]) -> bool:
    named = os.environ.get(variable, "").split(",")
    return any(prompt_id in named for prompt_id in ids)


@dataclass(frozen=True)
class ToyConfig:
    """See `pipelines.jobs.JobConfig`."""

    num_prompts: int = 18
    seed: int = 0
    unit_size: int = 4
    num_threads: int = 1
    draw: DrawConfig = field(default_factory=DrawConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    select: SelectPairsConfig = field(default_factory=lambda: SelectPairsConfig(hard_max=0.2, easy_min=0.8))
    pack: PackShardsConfig = field(default_factory=lambda: PackShardsConfig(units_per_shard=2, image_format="png"))

    def links(self) -> dict[str, list[Link]]:
        tertiles = DifficultyTertiles() if self.select.difficulty == "quantiles" else None
        return {
            "rule": [
                Link(DrawSquares, self.draw),
                Link(CheckColors, self.check),
                Link(SelectPairs, self.select, barrier=tertiles),
            ]
        }


def prompts(config: ToyConfig) -> list[PromptRow]:
    """`p000`, `p001`, ..."""
    red = (ObjectClause("square", color="red"),)
    return [
        PromptRow(PromptRecord(f"p{number:03d}", f"a red square, number {number}", "rule", "colors", red))
        for number in range(config.num_prompts)
    ]


def create(uri: str | Storage, config: ToyConfig, fill: Callable[[RunFolder], None] = lambda folder: None) -> RunFolder:
    """A new run."""
    info = RunInfo(
        format=FORMAT,
        preset="toy",
        config=asdict(config),
        seed=config.seed,
        unit_size=config.unit_size,
        root_key=root_key(config.seed, config.unit_size, config.num_threads),
        segments=lay_out({"rule": config.num_prompts}, config.unit_size),
        digests={},
        intake={},
        code_commit="unknown",
        created_at="2025-01-01T00:00:00Z",
    )
    return RunFolder.create(uri, info, prompts(config), fill)


def open_run(uri: str) -> tuple[RunFolder, ToyConfig]:
    """A run that was made before."""
    folder = RunFolder.open(uri)
    return folder, record_from_dict(ToyConfig, folder.info.config)


def main(argv: Sequence[str]) -> int:
    """Exit codes as in `python -m pipelines`."""
    try:
        folder, config = open_run(argv[0]) if RunFolder.exists(argv[0]) else (create(argv[0], ToyConfig()), ToyConfig())
        print("started", flush=True)
        failures = FailurePolicy(unit_limit_s=float(os.environ.get("TOY_LIMIT_S", 0)))
        take_over, check_blocks = "--take-over" in argv, "--check-blocks" in argv
        options = RunOptions(quiet=True, take_over=take_over, check_blocks=check_blocks, failures=failures)
        return 0 if drive(folder, config, options) else 1
    except ReflectionFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
