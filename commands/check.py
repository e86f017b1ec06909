"""`python -m inference check "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.image_files import read_images
from commands.quoted import prompt_of_images
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.model_store import require_models
from inference.prompt_grammar import parse_prompt
from pipelines.prompts.known_prompts import require_known
from pipelines.prompts.vocabulary import load_vocabulary
from recipes import catalogue
from schemas.configuration import model_names
from schemas.plain_text import one_line
from schemas.records import Check
from schemas.telling import loading
from schemas.terminal import say


@dataclass(frozen=True)
class CheckArgs:
    """Check images against a prompt in one of GenEval's forms."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the images should show."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files."""
    skip_bad: bool = False
    """Leave out files that do not read as images, which are named, instead of refusing all."""
    json: bool = False
    """Print one JSON object."""
    vocabulary: str = "everyday"
    """Whose nouns the prompt may speak of, besides COCO's and the shipped ones': a vocabulary's file."""
    preset: Preset = field(default_factory=catalogue.default)
    grounded_sam: GroundedSamConfig = field(default_factory=GroundedSamConfig)


def default_arguments(preset: str) -> CheckArgs:
    """What a preset says."""
    return CheckArgs(
        prompt=tyro.MISSING,
        images=tyro.MISSING,
        preset=preset,
        grounded_sam=catalogue.load(preset, "grounding"),
    )


def main(argv: Sequence[str]) -> int:
    """0 when the images were looked at, whatever was found."""
    arguments = parse_with_preset(CheckArgs, argv, "check", default_arguments, "inference")
    config = arguments.grounded_sam.only_what_is_used()
    prompt = prompt_of_images(arguments.prompt, arguments.images)
    require_known(prompt, model_names(config))
    record = parse_prompt(prompt, known=load_vocabulary(arguments.vocabulary).known)
    files, images = read_images(arguments.images, arguments.skip_bad)
    require_models(model_names(config))
    with loading(model_names(config)):
        grounded_sam = config.open()
    checks = grounded_sam.check(images, [record] * len(images))
    if arguments.json:
        say(json.dumps([_plain(path, check) for path, check in zip(files, checks, strict=True)]))
        return 0
    for path, check in zip(files, checks, strict=True):
        say(f"{one_line(path)}: {'right' if check.correct else 'wrong'}, score {check.score:.2f}")
        for found_object in check.objects:
            box = ", ".join(f"{v:.1f}" for v in found_object.box)
            say(f"  {found_object.color or ''} {found_object.class_name} {found_object.score:.2f} at ({box})")
        for reason in check.reasons:
            say(f"  {reason}")
    return 0


def _plain(path: Path, check: Check) -> dict[str, object]:
    return {
        "file": str(path),
        "correct": check.correct,
        "score": check.score,
        "reasons": list(check.reasons),
        "objects": [
            {"class": o.class_name, "color": o.color, "score": o.score, "box": list(o.box)} for o in check.objects
        ],
    }
