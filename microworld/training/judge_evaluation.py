"""How good the judge is on scenes it has not seen: verdicts, shapes found, malformed ones accepted, colours.

`python -m microworld.training.judge_evaluation` prints one JSON object. How often it agrees with a person on generated
images is `benchmarks/micro/label_images.py`'s question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from inference.grounding.check import check_objects
from inference.judges.segmentation_judge import Region, SegmentationJudge, paste_on_grey
from microworld.family import micro_segmentation_judge
from microworld.scenes.captions import TAGS, sample_caption, sample_scene
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import render
from microworld.training.grounding_evaluation import to_prompt, true_objects
from microworld.training.judge_data import (
    COLOR_LABELS,
    MIXED,
    UNDECIDED_COLOR,
    JudgeDataConfig,
    JudgeImages,
    make_images,
)
from microworld.training.judge_shapes import MALFORMED, SHAPE_NAMES, UNDECIDED
from microworld.training.vae_noise import VaeNoise
from schemas.records import PromptRecord

HELD_OUT_SEED = 7_000_003
Transform = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) -> the same
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def verdict_scenes(num_per_tag: int, seed: int = HELD_OUT_SEED) -> tuple[list[PromptRecord], np.ndarray, list[bool]]:
    """Prompts of every tag, images uint8 (n, 32, 32, 3), and whether each is right. Half are drawn for their prompt,
    half are wrong by one operation; the truth is a perfect detector's under GenEval's rules."""
    rng = np.random.default_rng([seed, 1])
    prompts, scenes, truth = [], [], []
    for tag in TAGS:
        for index in range(num_per_tag):
            caption = sample_caption(rng, {tag: 1.0})
            scene = sample_scene(rng, caption)
            if index % 2:
                _, scene = wrong_scene(rng, caption, scene)
            prompts.append(to_prompt(caption))
            scenes.append(scene)
            truth.append(check_objects(prompts[-1], true_objects(scene)).correct)
    return prompts, render(scenes).images, truth


def verdict_counts(
    judge: SegmentationJudge, num_per_tag: int, transform: Transform | None = None
) -> dict[str, dict[str, int]]:
    """For each tag: right and wrong images, and how many of them the judge calls so."""
    prompts, images, truth = verdict_scenes(num_per_tag)
    images = images if transform is None else transform(images)
    checks = judge.judge(list(images), prompts)
    counts = {tag: {"right": 0, "called_right": 0, "wrong": 0, "called_wrong": 0} for tag in TAGS}
    for prompt, right, check in zip(prompts, truth, checks, strict=True):
        name = "right" if right else "wrong"
        counts[prompt.tag or ""][name] += 1
        counts[prompt.tag or ""][f"called_{name}"] += right == check.correct
    return counts


def accuracy(counts: dict[str, dict[str, int]]) -> tuple[int, int]:
    """Verdicts that hold, and all of them."""
    agreed = sum(row["called_right"] + row["called_wrong"] for row in counts.values())
    return agreed, sum(row["right"] + row["wrong"] for row in counts.values())


def shape_counts(regions: Sequence[Sequence[Region]], truth: JudgeImages, threshold: float) -> dict[str, int]:
    """Well drawn shapes and how many are found with their class; malformed ones and how many pass for a shape."""
    counts = {"shapes": 0, "found": 0, "malformed": 0, "accepted": 0}
    for found, instances, classes in zip(regions, truth.instances, truth.classes, strict=True):
        for k in np.flatnonzero(classes != UNDECIDED):
            mask = instances == k + 1
            if mask.sum() < 16:
                continue
            overlapping = [
                r for r in found if r.score > threshold and (r.mask & mask).sum() > 0.4 * (r.mask | mask).sum()
            ]
            names = {r.class_name for r in overlapping}
            if classes[k] == MALFORMED:
                counts["malformed"] += 1
                counts["accepted"] += bool(names & set(SHAPE_NAMES))
            else:
                counts["shapes"] += 1
                counts["found"] += SHAPE_NAMES[classes[k]] in names
    return counts


def color_counts(judge: SegmentationJudge, truth: JudgeImages) -> dict[str, int]:
    """Objects of one clear colour and how many are named so; objects without one and how many are called mixed."""
    crops, wanted = [], []
    for image, instances, colors in zip(truth.images, truth.instances, truth.colors, strict=True):
        for k in np.flatnonzero(colors != UNDECIDED_COLOR):
            mask = instances == k + 1
            if mask.sum() >= 16:
                crops.append(paste_on_grey(image, mask))
                wanted.append(int(colors[k]))
    counts = {"colored": 0, "named_right": 0, "mixed": 0, "called_mixed": 0}
    for name, number in zip(judge.name_colors(crops), wanted, strict=True):
        kind, hit = ("mixed", "called_mixed") if number == MIXED else ("colored", "named_right")
        counts[kind] += 1
        counts[hit] += name == COLOR_LABELS[number]
    return counts


def evaluate(weights: Path, degrade: VaeNoise, num_images: int = 600, num_per_tag: int = 100) -> dict[str, object]:
    """Every figure of the judge's model card that needs no generated image."""
    judge = SegmentationJudge(micro_segmentation_judge(model=str(weights / "judge")))
    truth = make_images(np.random.default_rng([HELD_OUT_SEED, 2]), num_images, JudgeDataConfig(), degrade)
    regions = judge.find_regions(list(truth.images))

    def through_vae(images: np.ndarray) -> np.ndarray:
        return degrade.all(np.random.default_rng([HELD_OUT_SEED, 3]), images)

    return {
        "verdicts": verdict_counts(judge, num_per_tag),
        "verdicts_through_vae": verdict_counts(judge, num_per_tag, through_vae),
        "shapes": {str(threshold): shape_counts(regions, truth, threshold) for threshold in THRESHOLDS},
        "colors": color_counts(judge, truth),
    }


def print_report(weights: Path, degrade: VaeNoise, num_images: int) -> None:
    """The same as a few lines."""
    report = evaluate(weights, degrade, num_images, max(2, num_images // 6))
    for name in ("verdicts", "verdicts_through_vae"):
        agreed, total = accuracy(report[name])  # pyright: ignore[reportArgumentType]
        print(f"judge: {name}: {agreed} of {total} as a perfect detector's", flush=True)
    for threshold, row in report["shapes"].items():  # pyright: ignore[reportAttributeAccessIssue]
        print(
            f"judge: above {threshold}: {row['found']} of {row['shapes']} shapes found, "
            f"{row['accepted']} of {row['malformed']} malformed ones accepted",
            flush=True,
        )
    row = report["colors"]
    print(f"judge: colours: {row}", flush=True)


if __name__ == "__main__":
    from microworld.weights_folder import MICRO_WEIGHTS

    print(json.dumps(evaluate(MICRO_WEIGHTS, VaeNoise(MICRO_WEIGHTS / "flux" / "vae", 0.6)), indent=1))
