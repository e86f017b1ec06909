"""VQAScore (Lin et al., 2024): how probable it is that a VLM's answer to "does this show that?" starts with Yes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field
from schemas.errors import InputError


@dataclass(frozen=True)
class VqaScoreConfig:
    """Who is asked, and how."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless the reward has one of its own."""
    prompt: str = template_field("vqa_score")
    """Template with {prompt} for a question whose answer is yes or no: a name in inference/prompts, or a file."""

    def open(self, journal: Journal | None = None) -> VqaScore:
        """Load or reach the VLM. MissingWeightsError, InputError."""
        template = load_prompt(self.prompt)
        fill_prompt(template, prompt="")
        return VqaScore((self.vlm or VlmConfig()).open(journal), template)


class VqaScore:
    """A `Reward` in [0, 1]."""

    def __init__(self, vlm: Vlm, template: str) -> None:
        self._vlm, self._template = vlm, template

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """images uint8 (H, W, 3), one prompt each -> float32 (n,): the probability of Yes."""
        if len(images) != len(prompts):
            raise InputError(f"{len(images)} images with {len(prompts)} prompts", expected="one prompt for each image")
        if not images:
            return np.zeros(0, np.float32)
        requests = [
            ChatRequest(fill_prompt(self._template, prompt=prompt), (image,))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return self._vlm.first_word_probabilities(requests, ("Yes",))[:, 0].astype(np.float32)
