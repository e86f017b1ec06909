"""How a condition enters FLUX, as plain data: commands read it before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ConditionConfig:
    """How the condition enters, and where the LoRA acts."""

    attention: Literal["joint", "cached"] = "joint"
    """`joint`, as published: all tokens attend to all. `cached`: the condition attends to itself (and the text's copy)
    alone, so that it is computed once for all denoising steps."""
    lora_on: Literal["condition", "all"] = "condition"
    """`condition`: the published way, which cannot be merged into the weights. `all`: every image token."""
    position: Literal["left", "over"] = "left"
    """Where the condition lies: `left` of the image by its own width, as published; or `over` it, each token at the
    middle of what it shows, which suits edits that keep the layout (OminiControl's spatially aligned tasks)."""
    text_copy: bool = True
    """In `cached`: whether the condition sees the text, at timestep 0."""
    adapt_text: bool = False
    """Whether the LoRA acts on the text copy as well (`cached`), or on the text (`lora_on` all)."""
    rank: int = 256
    """Width of the LoRA's inner layer."""
    alpha: float = 256.0
    """What the LoRA says counts alpha / rank times."""
