"""`python -m inference score "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from commands.image_files import read_images
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from inference.rewards.presets import RewardsConfig, published_rewards
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
    rewards: Literal["micro", "published"] = "micro"
    """Which models: the shipped ones, or CLIP ViT-L/14, HPSv2.1 and PickScore."""
    device: str = "cpu"
    """Where the published ones run."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)


def main(argv: Sequence[str]) -> int:
    """0 when the images were scored."""
    arguments = tyro.cli(ScoreArgs, args=list(argv), prog="python -m inference score")
    if not arguments.prompt.strip():
        raise InputError("the prompt is empty", field="prompt", expected='for example "a photo of two red circles"')
    images = read_images(arguments.images)
    rewards = RewardsConfig() if arguments.rewards == "micro" else published_rewards(arguments.device)
    from inference.model_store import require_models
    from inference.rewards.clip_reward import ClipReward
    from schemas.configuration import model_names

    require_models(model_names(rewards))
    prompts = [arguments.prompt] * len(images)
    scores = {name: ClipReward(config).score(images, prompts) for name, config in rewards.chosen().items()}
    columns = {name: values.tolist() for name, values in scores.items()}
    if len(images) > 1:
        columns["ensemble"] = combine_rewards(scores, arguments.ensemble).tolist()
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(images))]
    if arguments.json:
        print(json.dumps([{"file": str(p), **row} for p, row in zip(arguments.images, rows, strict=True)]))
        return 0
    for path, row in zip(arguments.images, rows, strict=True):
        print(f"{path}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return 0
