"""Which judge, whatever kind it is: objects in, GenEval's verdict out; or a VLM that is asked; or nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from inference.judges.geneval_scoring import ScoreThresholds, judge_objects
from inference.judges.known_words import KnownWords
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.judges.questions_judge import QuestionsJudge, QuestionsJudgeConfig
from inference.judges.segmentation_judge import SegmentationJudgeConfig
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, chosen_kind, without_other_kinds
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

    kind: Literal["mask2former", "segmentation", "questions", "none"] = "mask2former"
    """mask2former: GenEval's, for photographs; segmentation: two small classifiers, for drawings of few classes;
    questions: a VLM that did not choose is asked about each requirement, of any prompt; none: nobody judges."""
    mask2former: Mask2FormerJudgeConfig | None = field(default_factory=Mask2FormerJudgeConfig)
    segmentation: SegmentationJudgeConfig | None = None
    questions: QuestionsJudgeConfig | None = added_field(None)

    @property
    def is_there(self) -> bool:
        """Whether anybody judges."""
        return self.kind != "none"

    def required(self) -> JudgeConfig:
        """The same. InputError where nobody judges, for commands that do nothing else."""
        if not self.is_there:
            raise InputError("nobody is to judge", field="--judge.kind", expected="a judge")
        return self

    def only_what_is_used(self) -> JudgeConfig:
        """Without the other kinds, whose models are not needed. InputError for one that names no model."""
        if not self.is_there:
            return JudgeConfig("none", None, None, None)
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
        return chosen_kind(self).label if self.is_there else "nobody"

    def known_words(self) -> KnownWords | None:
        """What it can tell apart, known before it is loaded; None for one that can be asked about any prompt.
        MissingWeightsError."""
        return None if self.kind == "questions" else chosen_kind(self.required()).known_words()

    def open(self, journal: Journal | None = None) -> Judge | QuestionsJudge:
        """Load it. journal: for answers of a VLM elsewhere. MissingWeightsError, InputError."""
        chosen = chosen_kind(self.required())
        return chosen.open(journal) if self.kind == "questions" else chosen.open()


def judge_images(
    judge: Judge | QuestionsJudge, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]
) -> list[Check]:
    """Whether each image shows what its prompt asks for. InputError for a prompt with a word that the judge does not
    know: it would call every image wrong."""
    if isinstance(judge, QuestionsJudge):
        return judge.judge(images, prompts)
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
