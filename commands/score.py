"""`python -m inference score "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.image_files import read_images
from inference.model_store import require_models
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from inference.rewards.reward import RewardConfig, used_rewards
from recipes import catalogue
from schemas.configuration import model_names
from schemas.errors import InputError


@dataclass(frozen=True)
class ScoreArgs:
    """Score images of one prompt with every reward; with two images or more, also with the ensemble."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the images should show; any text."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """PNG or JPEG files."""
    json: bool = False
    """Print one JSON array."""
    preset: Preset = field(default_factory=catalogue.default)
    rewards: tuple[RewardConfig, ...] = (RewardConfig(),)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


def default_arguments(preset: str) -> ScoreArgs:
    """What a preset says."""
    return ScoreArgs(prompt=tyro.MISSING, images=tyro.MISSING, preset=preset, rewards=catalogue.load(preset, "rewards"))


def main(argv: Sequence[str]) -> int:
    """0 when the images were scored."""
    arguments = parse_with_preset(ScoreArgs, argv, "score", default_arguments, "inference")
    if not arguments.prompt.strip():
        raise InputError("the prompt is empty", field="prompt", expected='for example "a photo of two red circles"')
    images = read_images(arguments.images)
    rewards = used_rewards(arguments.rewards)
    require_models(name for reward in rewards for name in model_names(reward))
    prompts = [arguments.prompt] * len(images)
    scores = {reward.name: reward.open().score(images, prompts) for reward in rewards}
    columns = {name: values.tolist() for name, values in scores.items()}
    if len(images) > 1:
        columns["ensemble"] = combine_rewards(scores, arguments.ensemble, [r.weight for r in rewards]).tolist()
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(images))]
    if arguments.json:
        print(json.dumps([{"file": str(p), **row} for p, row in zip(arguments.images, rows, strict=True)]))
        return 0
    for path, row in zip(arguments.images, rows, strict=True):
        print(f"{path}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return 0
