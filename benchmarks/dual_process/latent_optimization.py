"""The baseline: the noise of each image is optimised by the same loss, and no weight (Dual-Process, §4.4; ReNO).

What is learnt holds for that one image: the next one starts anew. The noise is kept noise-like, its squared norm near
the number of its values (ReNO, Eyring et al. 2024, regularises the same).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.dual.concept import Concept
from schemas.errors import InputError
from trainers.denoiser import Denoiser, clean_estimate, denoise_to
from trainers.dual_process import as_uint8
from trainers.vqa_loss import VqaTeacher


@dataclass(frozen=True)
class LatentConfig:
    """One optimisation of the noise of some images."""

    steps: int = 50
    """At most."""
    learning_rate: float = 0.02
    """Of Adam, in units of the noise's standard deviation."""
    gradient_steps: int = 1
    """Denoising steps with the gradient, from the first on; the last straight to the clean estimate."""
    stop_probability: float = 0.95
    """An image is finished when its answers are more probable than this."""
    norm_weight: float = 1.0
    """Weight of the squared difference between the mean square of a noise and 1."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.gradient_steps < 1:
            raise InputError(f"{self.steps} steps, {self.gradient_steps} with a gradient", expected="at least 1")


@dataclass(frozen=True, eq=False)
class OptimizedImages:
    """images uint8 (n, H, W, 3), drawn in full from the noises found; probabilities (n,), of the last estimates; steps
    (n,) that each took; seconds of all together."""

    images: np.ndarray
    probabilities: np.ndarray
    steps: np.ndarray
    seconds: float


def optimize_latents(
    denoiser: Denoiser, teacher: VqaTeacher, concept: Concept, seeds: Sequence[int], config: LatentConfig
) -> OptimizedImages:
    """Images of `seeds` as the concept's questions want them. The images of a batch do not influence each other."""
    import torch

    started = time.monotonic()
    text = denoiser.encode(concept.prompt)
    noise = denoiser.noise(seeds).detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([noise], config.learning_rate)
    taken = np.zeros(len(seeds), int)
    probabilities = torch.zeros(len(seeds))
    for _ in range(config.steps):
        images = clean_estimate(denoiser, noise, text, 0, config.gradient_steps)
        losses = torch.stack([teacher.losses(images, asked) for asked in concept.questions]).mean(0)
        probabilities = (-losses.detach()).exp().cpu()
        open_ = probabilities <= config.stop_probability
        if not open_.any():
            break
        size = noise.flatten(1).square().mean(1)
        optimizer.zero_grad(set_to_none=True)
        kept = noise.detach().clone()
        (losses + config.norm_weight * (size - 1).square().to(losses)).sum().backward()
        optimizer.step()
        with torch.no_grad():  # finished ones stay: Adam would go on by its momentum
            noise[~open_] = kept[~open_]
        taken += open_.numpy()
    with torch.no_grad():
        z = denoise_to(denoiser, noise, text, len(denoiser.times) - 1)
        drawn = as_uint8(denoiser.decode(z))
    return OptimizedImages(drawn, probabilities.float().numpy(), taken, time.monotonic() - started)
