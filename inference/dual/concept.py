"""What a generator is to learn: a prompt, and questions about its images with the answers that they should get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from inference.vlm.overlays import SOLID, TRANSPARENT, VisualPrompt, overlay_image

OverlayMode = Literal["transparent", "solid"]


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """A picture that is drawn over the whole image (Dual-Process Distillation, "VLM Input Formatting").

    picture: uint8 (H, W, 4), RGBA. "transparent" blends it in by half; "solid" hides what is below it; where the
    picture itself is transparent, the image is seen in both.
    """

    picture: np.ndarray
    question: str
    mode: OverlayMode = "transparent"

    def layer(self, height: int, width: int) -> np.ndarray:
        """See `inference.vlm.overlays.VisualPrompt`."""
        from PIL import Image

        picture = Image.fromarray(self.picture).resize((width, height), Image.Resampling.BICUBIC)
        layer = np.array(picture, np.float32)
        layer[..., 3] *= (SOLID if self.mode == "solid" else TRANSPARENT) / 255
        return layer


@dataclass(frozen=True, eq=False)
class QuestionAnswer:
    """A question about an image, the answer that is wanted, and what is drawn over the image before it is asked.

    postfix: what stands behind the question, empty for nothing; None: what the teacher's configuration says.
    paraphrases: other wordings of the question, with the same answer: a training step asks one of all wordings, an
    evaluation all.
    """

    question: str
    answer: str = "Yes"
    overlays: tuple[VisualPrompt, ...] = ()
    postfix: str | None = None
    paraphrases: tuple[str, ...] = ()

    @property
    def wordings(self) -> tuple[QuestionAnswer, ...]:
        """The question in each of its wordings, itself first; none of these has paraphrases."""
        return tuple(replace(self, question=one, paraphrases=()) for one in (self.question, *self.paraphrases))

    def shown(self, image: np.ndarray) -> np.ndarray:
        """What the VLM is shown, at the image's own size: uint8 (H, W, 3)."""
        for prompt in self.overlays:
            image = overlay_image(image, prompt)
        return image


@dataclass(frozen=True, eq=False)
class Concept:
    """One thing to learn.

    digest: of everything here, reference pictures included. other_prompts: of the same concept, never trained on:
    does what was learnt on `prompt` help them? also: what is taught in turn with `prompt`, a step each, with questions
    of its own; none of these has an `also`.
    """

    name: str
    prompt: str
    questions: tuple[QuestionAnswer, ...]
    other_prompts: tuple[str, ...] = ()
    digest: str = ""
    also: tuple[Concept, ...] = ()

    @property
    def taught(self) -> tuple[Concept, ...]:
        """What the steps of a training are of, in turn."""
        return (self, *self.also)


def concept_of(
    name: str,
    prompt: str,
    questions: Sequence[QuestionAnswer],
    also: Sequence[Concept] = (),
    **others: tuple[str, ...],
) -> Concept:
    """A concept of plain questions, with its digest: for those that are made by a program and not read from a file."""
    from schemas.configuration import content_key

    plain: list[Any] = []
    for q in questions:
        said = (q.question, q.answer, [repr(prompt) for prompt in q.overlays])
        plain.append((*said, q.paraphrases) if q.paraphrases else said)  # digests of those without stay what they were
    more = [[one.digest for one in also]] if also else []
    digest = content_key(name, prompt, plain, others, *more)
    return Concept(name, prompt, tuple(questions), digest=digest, also=tuple(also), **others)
