"""GenEval's judge at full size: a Mask2Former finds COCO's objects, a CLIP names their colours.

transformers' port of the detector has other weights than the one that GenEval's own script loads through mmdet, so its
scores are labelled and compared with each other alone; `evaluate --official` tells how often the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inference.grounding.clip_color import ClipColorConfig
from inference.grounding.object_crops import box_of, paste_and_crop
from inference.judges.geneval_scoring import ScoreThresholds
from inference.judges.known_words import KnownWords, labels_of
from inference.model_store import resolve_model
from inference.prompt_grammar import COLORS
from inference.sound_weights import sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError
from schemas.images import encode_png
from schemas.records import DetectedObject, PromptRecord

# What label files call COCO's classes, and what GenEval's prompts call them.
OTHER_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class Mask2FormerJudgeConfig:
    """Which detector and which CLIP, and what counts as an object."""

    detector: str = model_field("facebook/mask2former-swin-small-coco-instance")
    """Folder or hub id of a `Mask2FormerForUniversalSegmentation` for COCO instances."""
    clip: str = model_field("openai/clip-vit-large-patch14")
    """Folder or hub id of a CLIP, which names colours."""
    thresholds: ScoreThresholds = field(default_factory=ScoreThresholds)
    """GenEval: strictly above .3, and .9 for the counting tag."""
    batch_size: int = 4
    """Images a forward pass of the detector; short batches are padded."""
    color_batch_size: int = 32
    """Objects a forward pass of CLIP."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    @property
    def label(self) -> str:
        """How scores by this judge are labelled."""
        return f"{self.detector} (transformers' weights, not GenEval's own) and {self.clip}"

    def known_words(self) -> KnownWords:
        """COCO's classes and GenEval's colours. MissingWeightsError."""
        labels = labels_of(resolve_model(self.detector))
        return KnownWords(frozenset(OTHER_NAMES.get(name, name) for name in labels), frozenset(COLORS))

    def open(self) -> Mask2FormerJudge:
        """Load it. MissingWeightsError, InputError."""
        return Mask2FormerJudge(self)


class Mask2FormerJudge:
    """See `inference.judges.judge.Judge`."""

    def __init__(self, config: Mask2FormerJudgeConfig) -> None:
        """MissingWeightsError; InputError for a model of another kind."""
        from transformers import AutoConfig, AutoImageProcessor, Mask2FormerForUniversalSegmentation

        self.config, self.thresholds = config, config.thresholds
        folder = sound_model(config.detector)
        if AutoConfig.from_pretrained(folder).model_type != "mask2former":
            raise InputError(f"{folder} holds a model of another kind", expected="a mask2former model")
        self._color_namer = ClipColorConfig(config.clip, config.color_batch_size, config.device).open()
        detector: Any = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
        self._detector = detector.to(config.device).eval().requires_grad_(False)
        self._detector_input: Any = AutoImageProcessor.from_pretrained(folder)
        labels: dict[int, str] = self._detector.config.id2label
        self.class_names = {int(i): OTHER_NAMES.get(name, name) for i, name in labels.items()}
        self.known_classes = frozenset(self.class_names.values())
        self.known_colors: frozenset[str] = frozenset(COLORS)

    def find_objects(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord] | None = None
    ) -> list[list[DetectedObject]]:
        """Everything in each image, uint8 (H, W, 3), best first. prompts: colours are named only of objects for which
        the image's prompt asks for one (naming them takes longer than finding them)."""
        found: list[list[tuple[str, float, np.ndarray]]] = [[] for _ in images]
        for batch in self._batches(images):
            for number, objects in zip(batch, self._find([images[i] for i in batch]), strict=True):
                found[number] = objects
        crops, where = [], []
        for number, (image, objects) in enumerate(zip(images, found, strict=True)):
            asked = None if prompts is None else {c.class_name for c in prompts[number].include if c.color}
            for index, (name, _, mask) in enumerate(objects):
                if asked is None or name in asked:
                    crops.append(paste_and_crop(image, mask))
                    where.append((number, index))
        names = [found[number][index][0] for number, index in where]
        colors = dict(zip(where, self._color_namer.name_crops(crops, names), strict=True))
        return [
            [
                DetectedObject(name, score, box_of(mask), colors.get((number, index)), encode_png(mask))
                for index, (name, score, mask) in enumerate(objects)
            ]
            for number, objects in enumerate(found)
        ]

    def _batches(self, images: Sequence[np.ndarray]) -> list[list[int]]:
        """Numbers of images. Those of one size run together: padded to a larger one, an image's masks would be drawn
        out over the padding."""
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(number)
        size = self.config.batch_size
        return [some[start : start + size] for some in by_size.values() for start in range(0, len(some), size)]

    def _find(self, batch: list[np.ndarray]) -> list[list[tuple[str, float, np.ndarray]]]:
        """Class, score and mask bool (H, W) of every object, best first."""
        import torch

        padded = batch + batch[-1:] * (self.config.batch_size - len(batch))
        inputs = self._detector_input(images=padded, return_tensors="pt").to(self.config.device)
        lowest = min(self.thresholds.default, self.thresholds.counting)
        with torch.inference_mode():
            outputs = self._detector(**inputs)
        segments = self._detector_input.post_process_instance_segmentation(
            outputs,
            threshold=lowest,
            target_sizes=[image.shape[:2] for image in padded],
            return_binary_maps=True,
        )
        found = []
        for one in segments[: len(batch)]:
            masks = one["segmentation"]
            objects = [
                (self.class_names[info["label_id"]], float(info["score"]), masks[i].cpu().numpy() > 0.5)
                for i, info in enumerate(one["segments_info"])
            ]
            found.append(sorted((o for o in objects if o[2].any()), key=lambda o: -o[1]))
        return found
