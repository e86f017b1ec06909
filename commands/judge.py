"""`python -m inference judge "a photo of two red circles" image.png`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.image_files import read_images
from commands.quoted import prompt_of_images
from inference.judges.judge import JudgeConfig
from inference.judges.questions_judge import QuestionsJudge
from inference.known_classes import KnownClasses, known_classes
from inference.model_store import require_models
from inference.prompt_grammar import parse_prompt, told_or_free
from pipelines.prompts.judgeable import Asked, count_unjudged
from pipelines.prompts.known_prompts import require_known
from recipes import catalogue
from schemas.configuration import model_names
from schemas.plain_text import one_line
from schemas.telling import loading
from schemas.terminal import say


@dataclass(frozen=True)
class JudgeArgs:
    """Judge images against a prompt in one of GenEval's forms, with the judge that no search uses."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the images should show."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files."""
    skip_bad: bool = False
    """Leave out files that do not read as images, which are named, instead of refusing all."""
    json: bool = False
    """Print one JSON array."""
    preset: Preset = field(default_factory=catalogue.default)
    judge: JudgeConfig = field(default_factory=JudgeConfig)


def default_arguments(preset: str) -> JudgeArgs:
    """What a preset says."""
    return JudgeArgs(prompt=tyro.MISSING, images=tyro.MISSING, preset=preset, judge=catalogue.load(preset, "judge"))


def main(argv: Sequence[str]) -> int:
    """0 when the images were looked at, whatever was found."""
    arguments = parse_with_preset(JudgeArgs, argv, "judge", default_arguments, "inference")
    config = arguments.judge.required().only_what_is_used()
    prompt = prompt_of_images(arguments.prompt, arguments.images)
    require_known(prompt, model_names(config))
    files, images = read_images(arguments.images, arguments.skip_bad)
    require_models(model_names(config))
    known = config.known_words()
    if known is None:
        record = told_or_free(prompt)
    else:
        nouns = known_classes().beside(KnownClasses(known.classes or frozenset()))
        record = parse_prompt(prompt, known=nouns)
    count_unjudged([Asked(record)], known, config.label)
    from inference.judges.geneval_scoring import judge_objects

    with loading(model_names(config)):
        judge = config.open()
    if isinstance(judge, QuestionsJudge):
        found = [[] for _ in images]
        checks = judge.judge(images, [record] * len(images))
    else:
        found = judge.find_objects(images, [record] * len(images))
        checks = [judge_objects(record, objects, judge.thresholds) for objects in found]
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
            for path, check, objects in zip(files, checks, found, strict=True)
        ]
        say(json.dumps(rows))
        return 0
    for path, check, objects in zip(files, checks, found, strict=True):
        say(f"{one_line(path)}: {'right' if check.correct else 'wrong'}")
        for item in objects:
            box = ", ".join(f"{v:.1f}" for v in item.box)
            counted = "" if item in check.objects else ", too uncertain to count"
            say(f"  {item.color} {item.class_name} {item.score:.2f} at ({box}){counted}")
        for reason in check.reasons:
            say(f"  {reason}")
    return 0
