"""Prompts that a distillation is to leave as they are: the generator's own velocities for them, matched at every step.

What a hundred steps change for one prompt they change for all. So the velocities of a few other prompts are recorded
before the first step, along the way from noise to image, and the LoRA pays for leaving them (learning without
forgetting, Li and Hoiem 2016; the paper has nothing like it).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.denoiser import Denoiser, euler_step

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Recorded:
    """z and velocity (B, ...) at a time, without the LoRA. text: the prompt as the denoiser encodes it."""

    prompt: str
    text: Any
    time: float
    z: torch.Tensor
    velocity: torch.Tensor


class KeptPrompts:
    """Made while the generator has no LoRA, or one that changes nothing yet."""

    def __init__(self, denoiser: Denoiser, prompts: Sequence[str], seeds: Sequence[int]) -> None:
        """Draws every prompt with every seed."""
        import torch

        self._denoiser = denoiser
        self._recorded: list[_Recorded] = []
        with torch.no_grad():
            for prompt in prompts:
                text, z = denoiser.encode(prompt), denoiser.noise(seeds)
                for step, time in enumerate(denoiser.times[:-1]):
                    velocity, later = euler_step(denoiser, z, text, step)
                    self._recorded.append(_Recorded(prompt, text, time, z, velocity))
                    z = later

    def loss(self, seed: Sequence[int], count: int, taught: Collection[str] = ()) -> torch.Tensor:
        """Mean squared distance of the velocities now from those recorded, at `count` of (prompt, time); with a
        gradient. seed: which are taken. taught: prompts that are to change, and are none of them; 0 where no other is
        kept."""
        import torch

        others = [was for was in self._recorded if was.prompt not in taught]
        if not others:
            return torch.zeros((), device=self._recorded[0].z.device, requires_grad=True)
        losses = []
        for number in np.random.default_rng(list(seed)).choice(len(others), min(count, len(others)), False).tolist():
            was = others[number]
            now = self._denoiser.velocity(was.z, was.time, was.text)
            losses.append((now - was.velocity).float().square().mean())
        return torch.stack(losses).mean()
