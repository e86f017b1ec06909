"""`python -m inference score "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from commands.arguments import Preset, parse_with_preset
from commands.image_files import read_images
from commands.quoted import known_prompt, prompt_of_images
from inference.interfaces import check_scores
from inference.model_store import require_models
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from inference.rewards.reward import RewardConfig, used_rewards
from inference.vlm.nvila_verifier import NvilaVerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from recipes import catalogue
from schemas.configuration import model_names
from schemas.errors import InputError
from schemas.plain_text import one_line
from schemas.telling import telling
from schemas.terminal import say

BATCH_SIZE = 8


@dataclass(frozen=True)
class ScoreArgs:
    """Score images of one prompt: with every reward and, for two images or more, with the ensemble; or with a trained
    verifier."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the images should show; any text."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files."""
    skip_bad: bool = False
    """Leave out files that do not read as images, which are named, instead of refusing all."""
    json: bool = False
    """Print one JSON array."""
    kind: Literal["rewards", "trained", "nvila"] = "rewards"
    """Who scores: the rewards; a trained verifier, of our own form or as the Image-Verifier is published (its score as
    its own code gives it); or NVILA, whose scores order images."""
    verifier: str = ""
    """Folder or hub id of the verifier."""
    base: str = ""
    """Base model of a published checkpoint, instead of the one it names."""
    template: str = ""
    """Text file with the words that the verifier was trained with, {text_prompt} or {prompt} in them."""
    max_pixels: int = 0
    """trained: an image is shrunk to as many; 0: as many as the checkpoint says."""
    step: int = -1
    """trained: which checkpoint of several; -1: the newest."""
    trust_remote_code: bool = False
    """nvila: run the Python code that lies in its folder, with all your rights. Read it first."""
    device: str = ""
    """Of a verifier: cpu, cuda; empty: cuda where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of a verifier's weights and sums."""
    preset: Preset = field(default_factory=catalogue.default)
    rewards: tuple[RewardConfig, ...] = (RewardConfig(),)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """Who is asked by a reward of kind vqa-score that names no VLM of its own."""


def default_arguments(preset: str) -> ScoreArgs:
    """What a preset says."""
    return ScoreArgs(
        prompt=tyro.MISSING,
        images=tyro.MISSING,
        preset=preset,
        rewards=catalogue.load(preset, "rewards"),
        vlm=catalogue.load_or(preset, "vlm", VlmConfig()),
    )


def main(argv: Sequence[str]) -> int:
    """0 when the images were scored."""
    arguments = parse_with_preset(ScoreArgs, argv, "score", default_arguments, "inference")
    prompt = known_prompt(prompt_of_images(arguments.prompt, arguments.images), _models(arguments))
    arguments = replace(arguments, prompt=prompt)
    files, images = read_images(arguments.images, arguments.skip_bad)
    score = _by_rewards if arguments.kind == "rewards" else _by_verifier
    columns = score(arguments, images)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(len(images))]
    if arguments.json:
        say(json.dumps([{"file": str(p), **row} for p, row in zip(files, rows, strict=True)]))
        return 0
    for path, row in zip(files, rows, strict=True):
        say(f"{one_line(path)}: " + "  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    return 0


def _models(arguments: ScoreArgs) -> Sequence[str]:
    """Of whoever scores."""
    if arguments.kind != "rewards":
        return [arguments.verifier]
    return [name for reward in used_rewards(arguments.rewards, arguments.vlm) for name in model_names(reward)]


def _by_rewards(arguments: ScoreArgs, images: Sequence[np.ndarray]) -> dict[str, list[float]]:
    rewards = used_rewards(arguments.rewards, arguments.vlm)
    require_models(_models(arguments))
    prompts = [arguments.prompt] * len(images)
    with telling(f"loading {', '.join(_models(arguments))}, and scoring", again="scoring"):
        scores = {reward.name: reward.open().score(images, prompts) for reward in rewards}
    for name, values in scores.items():
        check_scores(values, prompts, name)
    columns = {name: values.tolist() for name, values in scores.items()}
    if len(images) > 1:
        columns["ensemble"] = combine_rewards(scores, arguments.ensemble, [r.weight for r in rewards]).tolist()
    return columns


def _by_verifier(arguments: ScoreArgs, images: Sequence[np.ndarray]) -> dict[str, list[float]]:
    prompts = [arguments.prompt] * len(images)
    verifier = verifier_of(arguments)
    with telling(f"loading {arguments.verifier}, and scoring"):
        scores = verifier.open().score(images, prompts)
    check_scores(scores, prompts, arguments.kind)
    return {"score": scores.tolist()}


def verifier_of(arguments: ScoreArgs) -> TrainedVerifierConfig | NvilaVerifierConfig:
    """The verifier that the flags name. InputError for flags of another."""
    if not arguments.verifier:
        raise InputError(f"kind {arguments.kind!r} without a verifier", field="--verifier", expected="folder or hub id")
    vlm = _placed(arguments)
    if arguments.kind == "nvila":
        return NvilaVerifierConfig(
            model=arguments.verifier,
            trust_remote_code=arguments.trust_remote_code,
            template=arguments.template,
            vlm=vlm,
        )
    published = TrainedVerifierConfig(
        model=arguments.verifier,
        base=arguments.base,
        max_pixels=arguments.max_pixels,
        step=arguments.step,
        vlm=vlm,
        scores="deviations",
    )
    return published if not arguments.template else replace(published, template=arguments.template)


def _placed(arguments: ScoreArgs) -> VlmConfig:
    """Where a verifier computes, and in which type."""
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return VlmConfig(kind="in-process", dtype=arguments.dtype, device=device, batch_size=BATCH_SIZE)
