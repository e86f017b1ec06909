"""What `docs/architecture.md` says under "How to add", done in a copy of the sources: a stage, a generator, a reward,
a preset, in the places that it names; then the commands know them and a run is made with them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands")

GENERATOR = '''
"""Draws squares: a toy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SquaresConfig:
    """How squares are drawn."""

    side_px: int = 16
    """Side of the square."""
    size_px: int = 32
    """Side of the image."""
    num_steps: int = 1
    """Of denoising: there is none."""
    batch_size: int = 4
    """Images at once."""
    device: str = "cpu"
    """Where it draws."""

    @property
    def denoiser_passes_per_image(self) -> int:
        return 0

    def open(self, journal=None) -> Squares:
        return Squares(self)


class Squares:
    def __init__(self, config: SquaresConfig) -> None:
        self.config = config

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sizes=None) -> list[np.ndarray]:
        return list(self.draw(prompts, seeds))

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sizes=None) -> Iterator[np.ndarray]:
        for seed in seeds:
            image = np.full((32, 32, 3), 255, np.uint8)
            image[: self.config.side_px, : self.config.side_px] = np.random.default_rng(seed).integers(0, 255, 3)
            yield image

    def warm_up(self, sizes=()) -> None:
        pass
'''
REWARD = '''
"""Darkness: a toy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DarknessConfig:
    """How darkness counts."""

    scale: float = 1.0
    """Times the mean grey level below white."""

    def open(self) -> Darkness:
        return Darkness(self)


class Darkness:
    def __init__(self, config: DarknessConfig) -> None:
        self.config = config

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        return np.array([self.config.scale * (255 - image.mean()) for image in images], np.float32)
'''
STAGE = '''
"""Look at each prompt once more: a toy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pipelines.stage import Stage, Workers
from schemas.configuration import execution_field
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class NodAtPromptsConfig:
    """How often."""

    nods: int = 2
    """Nods a prompt, counted as verifier calls."""
    workers: Workers = execution_field(Workers())


class NodAtPrompts(Stage):
    name: ClassVar[str] = "nod_at_prompts"
    version: ClassVar[int] = 1

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return [replace(row, cost=Cost(verifier_calls=self.config.nods)) for row in rows]
'''
RECIPE = '''
"""toy: squares, chosen by darkness."""

from dataclasses import replace

from inference.generator import GeneratorConfig
from inference.rewards.reward import RewardConfig
from inference.squares import SquaresConfig
from inference.rewards.darkness import DarknessConfig
from pipelines.jobs import DatasetConfig
from recipes import micro


def rewards() -> tuple[RewardConfig, ...]:
    return (RewardConfig(name="dark", kind="darkness", clip=None, darkness=DarknessConfig()),)


def generator() -> GeneratorConfig:
    return GeneratorConfig("squares", flux=None, squares=SquaresConfig())


def dataset() -> DatasetConfig:
    base = micro.dataset()
    return replace(
        base,
        generate=replace(base.generate, generator=generator()),
        rewards=replace(base.rewards, rewards=rewards()),
    )
'''


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """The lines that a person would change."""
    text = path.read_text()
    for before, after in changes:
        assert text.count(before) == 1, f"{path}: {before!r}"
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    (folder / "microworld" / "weights").symlink_to(ROOT / "microworld" / "weights")
    # A model of a new kind: its file, and the seam.
    (folder / "inference" / "squares.py").write_text(GENERATOR)
    edit(
        folder / "inference" / "generator.py",
        ('kind: Literal["flux", ', 'kind: Literal["squares", "flux", '),
        (
            "    flux: FluxGeneratorConfig | None = field(default_factory=FluxGeneratorConfig)\n",
            "    flux: FluxGeneratorConfig | None = field(default_factory=FluxGeneratorConfig)\n"
            "    squares: SquaresConfig | None = None\n",
        ),
        (
            "from inference.interfaces import Generator\n",
            "from inference.interfaces import Generator\nfrom inference.squares import SquaresConfig\n",
        ),
    )
    (folder / "inference" / "rewards" / "darkness.py").write_text(REWARD)
    edit(
        folder / "inference" / "rewards" / "reward.py",
        ('kind: Literal["clip", ', 'kind: Literal["darkness", "clip", '),
        (
            "    clip: ClipRewardConfig | None = field(default_factory=ClipRewardConfig)\n",
            "    clip: ClipRewardConfig | None = field(default_factory=ClipRewardConfig)\n"
            "    darkness: DarknessConfig | None = None\n",
        ),
        (
            "from inference.rewards.clip_reward import ClipRewardConfig\n",
            "from inference.rewards.clip_reward import ClipRewardConfig\n"
            "from inference.rewards.darkness import DarknessConfig\n",
        ),
    )
    # A stage: its file, and a field and a link.
    (folder / "pipelines" / "stages" / "nod_at_prompts.py").write_text(STAGE)
    edit(
        folder / "pipelines" / "jobs.py",
        (
            "    pack: PackShardsConfig = field(default_factory=PackShardsConfig)\n",
            "    nod: NodAtPromptsConfig = field(default_factory=NodAtPromptsConfig)\n"
            "    pack: PackShardsConfig = field(default_factory=PackShardsConfig)\n",
        ),
        (
            '"general": [generate, score, Link(SelectByReward, pair)],',
            '"general": [Link(NodAtPrompts, self.nod), generate, score, Link(SelectByReward, pair)],',
        ),
        (
            "from pipelines.stages.read_edits import ReadEdits, ReadEditsConfig\n",
            "from pipelines.stages.nod_at_prompts import NodAtPrompts, NodAtPromptsConfig\n"
            "from pipelines.stages.read_edits import ReadEdits, ReadEditsConfig\n",
        ),
    )
    # A preset: its file.
    (folder / "recipes" / "toy.py").write_text(RECIPE)
    return folder


def command(folder: Path, *words: str) -> str:
    environment = os.environ | {"COLUMNS": "140", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_toy_stage_generator_reward_and_preset_are_run_planned_helped_and_reported(copy, tmp_path):
    toy = ("--preset", "toy", "--subsets", "general", "--num-prompts", "8")
    plan = json.loads(command(copy, "pipelines", "plan", *toy, "--json"))
    of = {stage["name"]: stage for stage in plan["stages"]}
    for name in ("nod_at_prompts", "generate_candidates", "score_rewards"):
        assert of[name]["seconds"] is None
        assert "run a pilot" in of[name]["source"]
    assert "without nod_at_prompts, generate_candidates, score_rewards" in command(copy, "pipelines", "plan", *toy)

    helped = command(copy, "pipelines", "run", "--preset", "toy", "--help-all")
    for word in ("toy", "--generate.generator.squares.side-px", "--rewards.rewards.0.darkness.scale", "--nod.nods"):
        assert word in helped

    run = str(tmp_path / "run")
    said = command(copy, "pipelines", "run", "--run", run, *toy, "--nod.nods", "3")
    assert "8 prompts: 8 shipped" in said
    assert "everything adds up" in command(copy, "pipelines", "verify", "--run", run, "--deep")
    pilot = json.loads(command(copy, "pipelines", "plan", *toy, "--run", run, "--json"))
    assert all(stage["seconds"] is not None for stage in pilot["stages"])
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    for word in ("nod at prompts", "dark", "toy"):
        assert word in page


def test_a_preset_that_says_nothing_for_a_command_names_those_that_do(copy):
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "search", "--run", "x", "--preset", "toy"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "preset 'toy' says nothing for search" in done.stderr
    assert "expected: flux or " in done.stderr
