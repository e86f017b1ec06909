"""`python -m inference judge "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.image_files import read_images
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from inference.prompt_grammar import parse_prompt


@dataclass(frozen=True)
class JudgeArgs:
    """Judge images against a prompt in one of GenEval's forms, with the judge that no search uses."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the images should show."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """PNG or JPEG files."""
    json: bool = False
    """Print one JSON array."""
    judge: SegmentationJudgeConfig = field(default_factory=SegmentationJudgeConfig)


def main(argv: Sequence[str]) -> int:
    """0 when the images were looked at, whatever was found."""
    arguments = tyro.cli(JudgeArgs, args=list(argv), prog="python -m inference judge")
    record = parse_prompt(arguments.prompt)
    images = read_images(arguments.images)
    from inference.judges.geneval_scoring import judge_objects
    from inference.judges.segmentation_judge import SegmentationJudge

    found = SegmentationJudge(arguments.judge).find_objects(images)
    checks = [judge_objects(record, objects, arguments.judge.thresholds) for objects in found]
    if arguments.json:
        rows = [
            {
                "file": str(path),
                "correct": check.correct,
                "reasons": list(check.reasons),
                "objects": [
                    {"class": o.class_name, "color": o.color, "score": o.score, "box": list(o.box)} for o in objects
                ],
            }
            for path, check, objects in zip(arguments.images, checks, found, strict=True)
        ]
        print(json.dumps(rows))
        return 0
    for path, check, objects in zip(arguments.images, checks, found, strict=True):
        print(f"{path}: {'right' if check.correct else 'wrong'}")
        for item in objects:
            box = ", ".join(f"{v:.1f}" for v in item.box)
            counted = "" if item in check.objects else ", too uncertain to count"
            print(f"  {item.color} {item.class_name} {item.score:.2f} at ({box}){counted}")
        for reason in check.reasons:
            print(f"  {reason}")
    return 0
