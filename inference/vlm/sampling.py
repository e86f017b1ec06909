"""How a VLM's answers are drawn: greedily, or by temperature, top-k and top-p, each from a seed of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.configuration import stable_seed
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

RETRY_TEMPERATURE = 0.7  # of an answer that is asked for again, where the first was greedy
_MAX_SEED = 2**31  # servers take 32 bits


@dataclass(frozen=True)
class Sampling:
    """InputError for values that nothing can be drawn with."""

    temperature: float = 0.0
    """0: the likeliest token each time."""
    top_p: float = 1.0
    """Of the likeliest tokens that together have this probability; 1: of all."""
    top_k: int = 0
    """Of so many likeliest tokens; 0: of all."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature {self.temperature}", field="vlm.temperature", expected="0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}", field="vlm.top_p", expected="more than 0, at most 1")
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k}", field="vlm.top_k", expected="0 (of all tokens) or more")

    def temperature_of(self, attempt: int) -> float:
        """Of a request's n-th try: a greedy answer that could not be used is sampled the next time."""
        return self.temperature or (RETRY_TEMPERATURE if attempt else 0.0)

    def seed_of(self, attempt: int) -> int:
        """What a server is told; 31 bits."""
        return stable_seed(self.seed, attempt) % _MAX_SEED if self.seed else attempt


def request_seed(payload: Any) -> int:
    """What a server is told, by all that is asked, in which `seed_of` its attempt stands already."""
    return stable_seed(payload) % _MAX_SEED


class SeededSampler:
    """A logits processor of transformers' `generate`, which is then left to be greedy: it allows each row the one token
    that the row's own numbers draw. So requests are sampled together, and none depends on the others.

    Order and meaning are those of transformers: temperature, then top-k, then top-p.
    """

    def __init__(
        self, sampling: Sampling, temperatures: Sequence[float], seeds: Sequence[int], prompt_length: int, most: int
    ) -> None:
        """temperatures, seeds: one a row; 0 leaves a row greedy. prompt_length, most: tokens read, tokens written."""
        import torch

        self._sampling, self._prompt_length = sampling, prompt_length
        self._temperatures = torch.tensor(temperatures)
        numbers = [torch.rand(most, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self._numbers = torch.stack(numbers)  # (rows, tokens), [0, 1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids (rows, tokens so far), scores (rows, vocabulary) -> scores with one finite entry a sampled row."""
        import torch

        temperatures = self._temperatures.to(scores.device)[:, None]
        sampled = temperatures[:, 0] > 0
        logits, tokens = (scores.float() / temperatures.clamp_min(1e-6)).sort(dim=-1, descending=True, stable=True)
        if self._sampling.top_k:
            logits[:, self._sampling.top_k :] = -math.inf
        probabilities = logits.softmax(-1)
        summed = probabilities.cumsum(-1)
        kept = summed - probabilities < self._sampling.top_p  # the first always is
        total = torch.where(kept, summed, 0).amax(-1, keepdim=True)
        number = self._numbers[:, input_ids.shape[1] - self._prompt_length].to(scores.device)[:, None]
        place = (summed <= number * total).sum(-1, keepdim=True).clamp_max(kept.sum(-1, keepdim=True) - 1)
        drawn = torch.full_like(scores, -math.inf).scatter_(1, tokens.gather(1, place), 0.0)
        return torch.where(sampled[:, None], drawn, scores)
