"""Grounded-SAM: detect by name, segment the boxes, name the colours; what `check_objects` judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from inference.grounding.check import check_objects
from inference.grounding.color_namer import ColorNamerConfig
from inference.grounding.detector import DetectorConfig
from inference.grounding.segmenter import SegmenterConfig
from inference.interfaces import ColorNamer, Detector, Segmenter
from schemas.images import encode_png
from schemas.records import Check, DetectedObject, PromptRecord


@dataclass(frozen=True)
class GroundedSamConfig:
    """The three parts. The defaults are the published ones, with the thresholds of their demos."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    color: ColorNamerConfig = field(default_factory=ColorNamerConfig)

    def only_what_is_used(self) -> GroundedSamConfig:
        """Each part without its other kinds."""
        return GroundedSamConfig(
            self.detector.only_what_is_used(), self.segmenter.only_what_is_used(), self.color.only_what_is_used()
        )

    def open(self) -> GroundedSam:
        """Load all models. MissingWeightsError before anything is computed."""
        return GroundedSam(self.detector.open(), self.segmenter.open(), self.color.open())


class GroundedSam:
    """Objects of named classes, with mask and colour, for many images at once."""

    def __init__(self, detector: Detector, segmenter: Segmenter, color_namer: ColorNamer) -> None:
        self._detector, self._segmenter, self._color_namer = detector, segmenter, color_namer

    def find_objects(
        self, images: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]
    ) -> list[list[DetectedObject]]:
        """images: uint8 (H, W, 3). class_names: what to look for in each image. Objects of each image, best first."""
        detections = self._detector.detect(images, class_names)
        boxes = [np.array([d.box for d in found], np.float32).reshape(-1, 4) for found in detections]
        all_masks = self._segmenter.segment(images, boxes)
        names = [[d.class_name for d in found] for found in detections]
        all_colors = self._color_namer.name_colors(images, all_masks, names)
        return [
            [
                DetectedObject(d.class_name, d.score, tuple(d.box), color, encode_png(mask))
                for d, color, mask in zip(found, colors, masks, strict=True)
            ]
            for found, colors, masks in zip(detections, all_colors, all_masks, strict=True)
        ]

    def check(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Check]:
        """GenEval's rules on what is found of each image's prompt. images: uint8 (H, W, 3)."""
        found = self.find_objects(images, [classes_to_find(prompt) for prompt in prompts])
        return [check_objects(prompt, objects) for prompt, objects in zip(prompts, found, strict=True)]


def classes_to_find(prompt: PromptRecord) -> tuple[str, ...]:
    """The classes of all clauses, each once, in order."""
    return tuple(dict.fromkeys(clause.class_name for clause in (*prompt.include, *prompt.exclude)))
