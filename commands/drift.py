"""`python -m inference drift before after`: two folders of images, such as a generator's before and after training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from commands.arguments import Preset, parse_with_preset
from commands.image_files import check_images, read_image, say_faults
from inference.model_store import require_models
from inference.rewards.clip_reward import ClipRewardConfig
from recipes import catalogue
from schemas.configuration import model_names
from schemas.errors import InputError
from schemas.telling import loading
from schemas.terminal import say

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class DriftArgs:
    """Say how far images moved, by CMMD: of prompts that a training had nothing to do with, drawn before and after."""

    before: Annotated[Path, tyro.conf.Positional]
    """Folder of images, read with all folders below it."""
    after: Annotated[Path, tyro.conf.Positional]
    """Another."""
    preset: Preset = field(default_factory=catalogue.default)
    clip: ClipRewardConfig = field(default_factory=ClipRewardConfig)
    """Who looks. Distances by different ones do not compare."""
    json: bool = False
    """Print one JSON object."""


def default_arguments(preset: str) -> DriftArgs:
    """What a preset says."""
    return DriftArgs(before=tyro.MISSING, after=tyro.MISSING, preset=preset, clip=catalogue.load(preset, "drift_clip"))


def main(argv: Sequence[str]) -> int:
    """0 when the distance was measured."""
    arguments = parse_with_preset(DriftArgs, argv, "drift", default_arguments, "inference")
    files = [_files(folder) for folder in (arguments.before, arguments.after)]
    config, model = arguments.clip, arguments.clip.model
    require_models(model_names(config))
    looked_at = check_images([*files[0], *files[1]])
    say_faults([fault for fault in looked_at if isinstance(fault, InputError)], skip_bad=False)
    from inference.judges.drift import chance_level, cmmd

    with loading(model_names(config)):
        reward = config.open()
    size = config.batch_size  # not all images in memory
    before, after = (
        np.concatenate(
            [reward.embed_images(list(map(read_image, some[i : i + size]))) for i in range(0, len(some), size)]
        )
        for some in files
    )
    found = {
        "clip": model,
        "images": [len(before), len(after)],
        "cmmd": cmmd(before, after),
        "by_chance": chance_level(before, after),
    }
    if arguments.json:
        say(json.dumps(found))
        return 0
    say(
        f"CMMD {found['cmmd']:.4f} between {len(before)} and {len(after)} images, by {model}; "
        f"of one set split by chance 95 % stay below {found['by_chance']:.4f}"
    )
    return 0


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError("no such folder", file=str(folder), expected="a folder of images")
    there = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    found = [path for path in there if not path.name.startswith(".")]
    if len(found) < 2:
        raise InputError(f"{len(found)} images", file=str(folder), expected=f"two or more of {', '.join(IMAGES)}")
    return found
