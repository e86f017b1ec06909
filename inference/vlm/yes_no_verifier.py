"""A verifier made of a VLM that is asked whether the image matches. (Verifiers of all kinds: `inference.verifier`.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.interfaces import ChatRequest, OneCallAnImage, Vlm
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt, load_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import template_field

FLOOR = 1e-6  # of a probability, so that log-odds stay finite


@dataclass(frozen=True)
class YesNoVerifierConfig:
    """Who is asked whether the image matches, and how."""

    vlm: VlmConfig | None = None
    """The run's VLM, unless the verifier has one of its own."""
    prompt: str = template_field("verify")
    """Template with {prompt} for yes or no: a name in inference/prompts, or a file."""

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask a VLM elsewhere."""
        return self.vlm is not None and self.vlm.is_elsewhere

    def open(self, journal: Journal | None = None) -> YesNoVerifier:
        """Load the VLM. MissingWeightsError, InputError."""
        return YesNoVerifier((self.vlm or VlmConfig()).open(journal), load_prompt(self.prompt))


class YesNoVerifier(OneCallAnImage):
    """Log-odds of Yes against No, the answer to whether the image matches the prompt (as NVILA is used, §4.1)."""

    def __init__(self, vlm: Vlm, template: str) -> None:
        self._vlm, self._template = vlm, template

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,): log p(Yes) - log p(No)."""
        requests = [
            ChatRequest(fill_prompt(self._template, prompt=prompt), (image,))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        if not requests:
            return np.zeros(0, np.float32)
        probabilities = self._vlm.first_word_probabilities(requests, ("Yes", "No")).clip(FLOOR, 1)
        return np.log(probabilities[:, 0]) - np.log(probabilities[:, 1])
