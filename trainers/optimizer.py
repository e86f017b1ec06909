"""What moves the weights of the trainers on shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and how fast."""

    name: Literal["prodigy", "adamw"] = "prodigy"
    """prodigy finds the size of its steps itself (learning rate 1); adamw takes them as it is told."""
    learning_rate: float = 1.0
    """At its highest."""
    weight_decay: float = 0.01
    """Decoupled: at each step weights shrink by this times the learning rate."""
    warmup_steps: int = 0
    """Over the first so many steps the learning rate rises linearly."""
    decay_steps: int = 0
    """Over the last so many steps the learning rate falls linearly to a fiftieth."""
    max_gradient_norm: float = 0.5
    """Longer gradients, of all trained weights together, are shortened to this length."""


def make_optimizer(parameters: Sequence[torch.Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Prodigy as the corrector is trained with, or AdamW."""
    import torch

    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
    from prodigyopt import Prodigy

    return Prodigy(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,  # pyright: ignore[reportArgumentType] - typed by its default, 0
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Of all its parameters, from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
