"""Which judge, whatever kind it is: objects in, GenEval's verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from inference.judges.geneval_scoring import ScoreThresholds, judge_objects
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from schemas.errors import InputError
from schemas.records import Check, DetectedObject, PromptRecord


class Judge(Protocol):
    """Finds objects in images. known_classes, known_colors: what it tells apart, and so all that it can ever find."""

    thresholds: ScoreThresholds
    known_classes: frozenset[str]
    known_colors: frozenset[str]

    def find_objects(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord] | None = None
    ) -> list[list[DetectedObject]]:
        """Everything in each image, uint8 (H, W, 3), best first. prompts: what the images are judged by; what no prompt
        asks for need not be found out."""
        ...


@dataclass(frozen=True)
class JudgeConfig:
    """segmentation: the micro world's; mask2former: GenEval's kind, for photographs. Only `kind` is loaded."""

    kind: Literal["segmentation", "mask2former"] = "segmentation"
    segmentation: SegmentationJudgeConfig | None = field(default_factory=SegmentationJudgeConfig)
    mask2former: Mask2FormerJudgeConfig | None = field(default_factory=Mask2FormerJudgeConfig)

    def only_what_is_used(self) -> JudgeConfig:
        """Without the other kind, whose models are not needed."""
        return JudgeConfig(
            self.kind,
            self.segmentation if self.kind == "segmentation" else None,
            self.mask2former if self.kind == "mask2former" else None,
        )

    @property
    def label(self) -> str:
        """Whose verdicts these are: scores of different judges cannot be compared."""
        if self.kind == "segmentation":
            return self.segmentation.model if self.segmentation else ""
        return self.mask2former.label if self.mask2former else ""


def open_judge(config: JudgeConfig) -> Judge:
    """Loads it. MissingWeightsError."""
    if config.kind == "segmentation" and config.segmentation is not None:
        from inference.judges.segmentation_judge import SegmentationJudge

        return SegmentationJudge(config.segmentation)
    if config.kind == "mask2former" and config.mask2former is not None:
        from inference.judges.mask2former_judge import Mask2FormerJudge

        return Mask2FormerJudge(config.mask2former)
    raise InputError(f"judge {config.kind!r} has no configuration", field=f"judge.{config.kind}", expected="a model")


def judge_images(judge: Judge, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Check]:
    """Whether each image shows what its prompt asks for."""
    found = judge.find_objects(images, prompts)
    return [judge_objects(p, objects, judge.thresholds) for p, objects in zip(prompts, found, strict=True)]
