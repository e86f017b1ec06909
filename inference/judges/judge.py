"""Which judge, whatever kind it is: objects in, GenEval's verdict out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from inference.judges.geneval_scoring import ScoreThresholds, judge_objects
from inference.judges.known_words import KnownWords
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from schemas.configuration import chosen_kind, without_other_kinds
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
    """Who judges, apart from everything that a search uses. Only `kind` is loaded."""

    kind: Literal["mask2former", "segmentation"] = "mask2former"
    """mask2former: GenEval's, for photographs; segmentation: two small classifiers, for drawings of few classes."""
    mask2former: Mask2FormerJudgeConfig | None = field(default_factory=Mask2FormerJudgeConfig)
    segmentation: SegmentationJudgeConfig | None = None

    def only_what_is_used(self) -> JudgeConfig:
        """Without the other kind, whose models are not needed. InputError for one that names no model."""
        used = without_other_kinds(self)
        if used.segmentation is not None and not used.segmentation.model:
            raise InputError(
                "the judge 'segmentation' names no model",
                field="judge.segmentation.model",
                expected="a folder with `detector/` and `color/`",
            )
        return used

    @property
    def label(self) -> str:
        """Whose verdicts these are: scores of different judges cannot be compared."""
        return chosen_kind(self).label

    def known_words(self) -> KnownWords:
        """What it can tell apart, known before it is loaded. MissingWeightsError."""
        return chosen_kind(self).known_words()

    def open(self) -> Judge:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()


def judge_images(judge: Judge, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Check]:
    """Whether each image shows what its prompt asks for. InputError for a prompt with a word that the judge does not
    know: it would call every image wrong."""
    known = KnownWords(judge.known_classes, judge.known_colors)
    for prompt in prompts:
        if (unknown := known.unknown_in(prompt)) is not None:
            raise InputError(
                f"the judge knows no {unknown.kind} {unknown.word!r}, which {prompt.text!r} asks for",
                field=unknown.field,
                expected=", ".join(sorted((known.classes if unknown.kind == "class" else known.colors) or ())),
            )
    found = judge.find_objects(images, prompts)
    return [judge_objects(p, objects, judge.thresholds) for p, objects in zip(prompts, found, strict=True)]
