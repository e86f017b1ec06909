"""A second VLM that is never learnt from: it looks on, and ends a training when it denies what the teacher believes.

The gradient finds what the teacher accepts, which need not be what is asked for. What fools one VLM seldom fools
another of other weights, so the two are asked the same questions about the same finished images, of seeds that are not
trained on: before the first step, every few steps, and at the end. They have parted over a question where the teacher's
mean probability of the wanted answer is at least `sure` and the referee's below `doubtful`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.dual.concept import QuestionAnswer
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError
from trainers.distilled import Fooled, Look
from trainers.vqa_loss import TeacherConfig, VqaTeacher

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RefereeConfig:
    """Which VLM looks on, when, and what counts as parting. It is asked as the teacher is, in the same precision."""

    model: str = model_field("HuggingFaceM4/idefics2-8b")
    """Of the teacher's kinds, and better of another family: what is trained on the same images is fooled by the same
    images."""
    every: int = 20
    """Steps from one look to the next; one before the first step and one at the end are made anyway."""
    num_images: int = 8
    """Images a look, of the first of the evaluation's seeds; at most as many as are evaluated."""
    sure: float = 0.5
    """The two have parted over a question where the teacher's probability is at least this ..."""
    doubtful: float = 0.25
    """... and the referee's below this, each the mean over a look's images."""
    same_as_teacher: bool = False
    """The teacher's own weights may look on. They are fooled by what fools it, and show only what finished images lack
    of those that are trained on."""
    device: str = execution_field("")
    """Empty: the teacher's."""

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("a referee without a model", field="referee.model", expected="a VLM's name or folder")
        if min(self.every, self.num_images) < 1:
            raise InputError(
                f"a look every {self.every} steps at {self.num_images} images", field="referee", expected="at least 1"
            )
        if not 0 <= self.doubtful <= self.sure <= 1:
            raise InputError(
                f"sure from {self.sure} on, doubtful below {self.doubtful}",
                field="referee.sure, referee.doubtful",
                expected="0 <= doubtful <= sure <= 1",
            )

    def asked_as(self, teacher: TeacherConfig) -> TeacherConfig:
        """How it is loaded and asked. It sees finished images, as they are."""
        device = self.device or teacher.device
        return replace(teacher, model=self.model, device=device, pixel_range="clamp", gradient_checkpointing=False)


def mean_answers(vlm: VqaTeacher, images: np.ndarray, questions: Sequence[QuestionAnswer], size: int) -> np.ndarray:
    """images uint8 (n, H, W, 3) -> float32 (n, questions): how probable a VLM finds the wanted answers. size: images of
    a forward pass."""
    each = [
        np.concatenate([vlm.probabilities(images[i : i + size], asked) for i in range(0, len(images), size)])
        for asked in questions
    ]
    return np.stack(each, 1)


class Referee:
    """Its looks at one training, and the LoRA of the last one at which the two had not parted."""

    def __init__(
        self, config: RefereeConfig, vlm: VqaTeacher, teacher: VqaTeacher, questions: Sequence[QuestionAnswer]
    ) -> None:
        self.config, self.looks = config, list[Look]()
        self._vlm, self._teacher, self._questions = vlm, teacher, questions
        self._agreed: tuple[int, dict[str, torch.Tensor]] | None = None

    def is_due(self, step: int) -> bool:
        """Whether it looks after so many steps."""
        return step % self.config.every == 0 and not self.has_looked(step)

    def has_looked(self, step: int) -> bool:
        return bool(self.looks) and self.looks[-1].step == step

    def look(self, step: int, images: np.ndarray, weights: Mapping[str, torch.Tensor], size: int) -> None:
        """images: finished ones after so many steps, uint8 (n, H, W, 3). weights: of the LoRA that drew them."""
        asked = (self._questions, size)
        told, seen = (mean_answers(vlm, images, *asked).mean(0).tolist() for vlm in (self._teacher, self._vlm))
        self.looks.append(Look(step, tuple(told), tuple(seen)))
        if self.parted_over is None:
            self._agreed = (step, {name: value.detach().clone() for name, value in weights.items()})

    @property
    def parted_over(self) -> int | None:
        """The first question over which the two have parted at the last look; None where they agree."""
        if not self.looks:
            return None
        last = self.looks[-1]
        pairs = enumerate(zip(last.teacher, last.referee, strict=True))
        config = self.config
        return next((i for i, (told, seen) in pairs if told >= config.sure and seen < config.doubtful), None)

    @property
    def agreed(self) -> tuple[int, dict[str, torch.Tensor]] | None:
        """Step and LoRA of the last look at which they had not parted; None where they had from the first on."""
        return self._agreed

    def fooled(self) -> Fooled | None:
        """What is said of a training that they parted over; None where they have not."""
        over = self.parted_over
        if over is None:
            return None
        last, config, question = self.looks[-1], self.config, self._questions[over].question
        when = f"after {last.step} steps" if last.step else "before the first step"
        why = (
            f"the VLM is fooled: {when} it finds the wanted answer to {question!r} {last.teacher[over]:.2f} probable "
            f"(sure from {config.sure} on), the referee {config.model} {last.referee[over]:.2f} (doubtful below "
            f"{config.doubtful})"
        )
        if not last.step:
            why += ". One of the two cannot be asked this: another question, or another referee"
        return Fooled(why, last.step, self.agreed[0] if self.agreed else 0, over)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"looks": [asdict(look) for look in self.looks], "agreed": self._agreed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """What `state` gave."""
        self.looks = [Look(one["step"], tuple(one["teacher"]), tuple(one["referee"])) for one in state["looks"]]
        self._agreed = tuple(state["agreed"]) if state["agreed"] else None  # pyright: ignore[reportAttributeAccessIssue]
