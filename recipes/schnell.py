"""schnell: FLUX.1-schnell, drawn in four steps and taught in one."""

from __future__ import annotations

from dataclasses import replace

from inference.generator import GeneratorConfig
from recipes import flux

MODEL = "black-forest-labs/FLUX.1-schnell"


def generator() -> GeneratorConfig:
    """Four steps without guidance, 256 T5 tokens (its model card)."""
    drawn = flux.generator()
    assert drawn.flux is not None
    chosen = replace(drawn.flux, model=MODEL, num_steps=4, guidance=0.0, text_lengths=(256,))
    return replace(drawn, flux=chosen)
