"""How good the micro Grounded-SAM is on scenes it was not trained on, as counts and shares.

`python -m microworld.training.grounding_evaluation` prints one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from inference.flux.latents import to_images, to_pixels
from inference.grounding.check import check_objects
from inference.grounding.grounded_sam import GroundedSam, classes_to_find
from inference.interfaces import Detection, Detector, Segmenter
from inference.sound_weights import sound_weights
from microworld.scenes.captions import TAGS, Caption, sample_caption, sample_scene
from microworld.scenes.world import Scene, render
from microworld.training.grounding_data import SHAPE_NAMES, AugmentationConfig, make_batch
from microworld.training.sam import SamRecipe, jitter_boxes
from schemas.records import DetectedObject, ObjectClause, PromptRecord

HELD_OUT_SEED = 1_000_003  # trainings draw from seeds [seed, step]
Transform = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) -> the same


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) xyxy -> (n, m) in [0, 1]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    return inner / np.maximum(areas[0][:, None] + areas[1][None] - inner, 1e-9)


def average_precision(
    detections: Sequence[Sequence[Detection]],
    truth: Sequence[tuple[Sequence[str | None], np.ndarray]],
    class_name: str,
    iou: float = 0.5,
) -> float:
    """Area under the precision envelope over recall for one class (as COCO's AP at one IoU, without sampling)."""
    total = sum(list(names).count(class_name) for names, _ in truth)
    ranked = sorted(
        (
            (d.score, image, d.box)
            for image, found in enumerate(detections)
            for d in found
            if d.class_name == class_name
        ),
        key=lambda item: -item[0],
    )
    taken: set[tuple[int, int]] = set()
    hits = np.zeros(len(ranked))
    for rank, (_, image, box) in enumerate(ranked):
        names, boxes = truth[image]
        rows = [k for k, name in enumerate(names) if name == class_name and (image, k) not in taken]
        if not rows:
            continue
        overlaps = box_iou(np.array([box]), boxes[rows])[0]
        if overlaps.max() >= iou:
            taken.add((image, rows[int(overlaps.argmax())]))
            hits[rank] = 1
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hits).sum() / total) if total else float("nan")


def detector_ap50(detector: Detector, num_scenes: int, transform: Transform | None = None) -> dict[str, float]:
    """AP at IoU .5 of each class, asked for all eight at once. Wants a detector with a low box threshold."""
    batch = make_batch(np.random.default_rng(HELD_OUT_SEED), num_scenes, None)
    images = batch.images if transform is None else transform(batch.images)
    detections = detector.detect(list(images), [SHAPE_NAMES] * num_scenes)
    truth = list(zip(batch.shapes, batch.boxes, strict=True))
    return {name: average_precision(detections, truth, name) for name in SHAPE_NAMES}


def segmenter_iou(segmenter: Segmenter, num_scenes: int, transform: Transform | None = None) -> float:
    """Mean IoU of masks for boxes jittered as a detector's are."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    batch = make_batch(rng, num_scenes, None)
    images = batch.images if transform is None else transform(batch.images)
    boxes = [jitter_boxes(rng, found, SamRecipe(), images.shape[1]) for found in batch.boxes]
    masks = segmenter.segment(list(images), boxes)
    pairs = [
        (a, b) for found, wanted in zip(masks, batch.masks, strict=True) for a, b in zip(found, wanted, strict=True)
    ]
    return float(np.mean([(a & b).sum() / max(1, (a | b).sum()) for a, b in pairs]))


def to_prompt(caption: Caption) -> PromptRecord:
    """The clauses of a caption as GenEval has them: counts exact through `exclude`."""
    include = tuple(
        ObjectClause(c.shape, c.count, c.color, c.relation and c.relation[0], c.relation and c.relation[1])
        for c in caption.clauses
    )
    exclude = tuple(ObjectClause(c.shape, c.count + 1) for c in caption.clauses if caption.tag == "counting")
    return PromptRecord("evaluation", caption.text, "rule", caption.tag, include, exclude)


def true_objects(scene: Scene) -> list[DetectedObject]:
    """What a perfect detector would find."""
    boxes = render([scene]).boxes[0]
    return [
        DetectedObject(o.shape, 1.0, tuple(box.tolist()), o.color) for o, box in zip(scene.objects, boxes, strict=True)
    ]


def check_accuracy(
    grounded_sam: GroundedSam, num_per_tag: int, transform: Transform | None = None
) -> dict[str, dict[str, int]]:
    """For each tag: images a perfect detector's check calls correct or wrong, and how many of them ours calls so.

    Half of a tag's images are drawn for its caption, half for the caption with one thing changed.
    """
    rng = np.random.default_rng(HELD_OUT_SEED + 1)
    prompts, scenes, tags = [], [], []
    for tag in TAGS:
        for index in range(num_per_tag):
            caption = sample_caption(rng, {tag: 1.0})
            drawn = caption if index % 2 == 0 else _changed(rng, caption)
            prompts.append(to_prompt(caption))
            scenes.append(sample_scene(rng, drawn))
            tags.append(tag)
    images = render(scenes).images
    images = images if transform is None else transform(images)
    found = grounded_sam.find_objects(list(images), [classes_to_find(p) for p in prompts])
    counts = {tag: {"correct": 0, "called_correct": 0, "wrong": 0, "called_wrong": 0} for tag in TAGS}
    for prompt, scene, objects, tag in zip(prompts, scenes, found, tags, strict=True):
        truth = check_objects(prompt, true_objects(scene)).correct
        called = check_objects(prompt, objects).correct
        counts[tag]["correct" if truth else "wrong"] += 1
        counts[tag]["called_correct" if truth else "called_wrong"] += truth == called
    return counts


def _changed(rng: np.random.Generator, caption: Caption) -> Caption:
    """Another shape, colour, number or relation in one clause."""
    while True:
        other = sample_caption(rng, {caption.tag: 1.0})
        index = int(rng.integers(len(caption.clauses)))
        if len(other.clauses) <= index:
            continue
        old, new = caption.clauses[index], other.clauses[index]
        changes = [{"shape": new.shape}, {"color": new.color}, {"count": new.count}, {"relation": new.relation}]
        changed = replace(old, **changes[rng.integers(len(changes))])
        if changed == old or any(c.shape == changed.shape for i, c in enumerate(caption.clauses) if i != index):
            continue
        clauses = tuple(changed if i == index else c for i, c in enumerate(caption.clauses))
        return replace(caption, clauses=clauses)


def vae_round_trip(weights: Path) -> Transform:
    """Images encoded and decoded by the micro generator's VAE, as close to generated ones as rendered ones get."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(sound_weights(weights / "flux" / "vae"), dtype=torch.float32).eval()

    def transform(images: np.ndarray) -> np.ndarray:
        decoded = []
        with torch.inference_mode():
            for part in np.array_split(images, max(1, len(images) // 64)):
                out = vae.decode(vae.encode(to_pixels(part)).latent_dist.mode()).sample
                decoded.append(to_images(out))
        return np.concatenate(decoded)

    return transform


def evaluate(weights: Path, num_scenes: int = 400, num_per_tag: int = 80) -> dict[str, object]:
    """Every figure of the model card, on clean scenes, degraded ones, and through the VAE where there is one."""
    from inference.grounding.grounding_dino import GroundingDinoDetector
    from inference.grounding.sam import SamSegmenter
    from microworld.family import micro_dino, micro_grounded_sam, micro_sam
    from microworld.training.grounding_data import degrade

    dino, sam = micro_dino(str(weights / "grounding_dino")), micro_sam(str(weights / "sam"))
    ranking = GroundingDinoDetector(replace(dino, box_threshold=0.02, text_threshold=0.0))
    segmenter, grounded_sam = SamSegmenter(sam), micro_grounded_sam(dino, sam).open()
    transforms: dict[str, Transform | None] = {
        "clean": None,
        "degraded": lambda images: degrade(np.random.default_rng(HELD_OUT_SEED), images, AugmentationConfig()),
    }
    if (weights / "flux" / "vae").is_dir():
        transforms["through_vae"] = vae_round_trip(weights)
    report: dict[str, object] = {"num_scenes": num_scenes}
    for name, transform in transforms.items():
        ap50 = detector_ap50(ranking, num_scenes, transform)
        report[name] = {
            "ap50": round(float(np.mean(list(ap50.values()))), 4),
            "ap50_by_class": {k: round(v, 3) for k, v in ap50.items()},
            "mean_iou": round(segmenter_iou(segmenter, num_scenes, transform), 4),
            "check": check_accuracy(grounded_sam, num_per_tag, transform),
        }
    images = list(make_batch(np.random.default_rng(HELD_OUT_SEED), 480, None).images)
    start = time.perf_counter()
    grounded_sam.find_objects(images, [("star", "circle")] * len(images))
    report["seconds_for_480_images"] = round(time.perf_counter() - start, 2)
    return report


if __name__ == "__main__":
    from microworld.weights_folder import MICRO_WEIGHTS

    print(json.dumps(evaluate(MICRO_WEIGHTS), indent=1))
