"""Losses on pairs of rewards: how much better the good image of a pair must score.

Bradley and Terry (1952): P(good beats bad) = sigmoid(r_good - r_bad). The variants are those that VideoAlign's public
code names; ReflectionFlow takes its reward model from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Variant = Literal["bt", "margin", "constant_margin", "scaled", "regularised"]
CONSTANT_MARGIN = 0.57  # VideoAlign
REGULARISATION = 1e-3  # of the square of r_good + r_bad, which the loss itself leaves free


def bradley_terry_loss(
    good: torch.Tensor, bad: torch.Tensor, variant: Variant = "bt", margin: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over pairs. good, bad (n,): rewards. margin (n,): how far apart the images of each pair are, for `margin`
    (the loss asks for that much more) and `scaled` (pairs further apart count more)."""
    import torch
    import torch.nn.functional as F

    difference = good - bad
    if margin is None:
        if variant in ("margin", "scaled"):
            raise ValueError(f"the variant {variant!r} needs the pairs' margins")
        margin = torch.ones_like(good)
    if variant == "margin":
        difference = difference - margin
    elif variant == "constant_margin":
        difference = difference - CONSTANT_MARGIN
    losses = -F.logsigmoid(difference)
    if variant == "scaled":
        losses = losses * margin
    if variant == "regularised":
        losses = losses + REGULARISATION * (good + bad).square()
    return losses.mean()
