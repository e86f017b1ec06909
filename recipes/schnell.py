"""schnell: FLUX.1-schnell, drawn in four steps and taught in one."""

from __future__ import annotations

from dataclasses import replace

from inference.flux.generator import FluxGeneratorConfig
from inference.generator import GeneratorConfig
from pipelines.stage import Workers
from recipes import flux
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process_config import DualProcessConfig

MODEL = "black-forest-labs/FLUX.1-schnell"


def generator() -> GeneratorConfig:
    """Four steps without guidance, 256 T5 tokens (its model card)."""
    drawn = flux.generator()
    assert drawn.flux is not None
    chosen = replace(drawn.flux, model=MODEL, num_steps=4, guidance=0.0, text_lengths=(256,))
    return replace(drawn, flux=chosen)


def dual_process() -> DualProcessConfig:
    """FLUX.1-schnell at one step, on one 80 GB GPU (Dual-Process Distillation, §4.1); 512 T5 tokens as published, twice
    what its model card has."""
    drawn = FluxGeneratorConfig(MODEL, num_steps=1, guidance=0.0, size_px=512, text_lengths=(512,))
    return flux.distillation(DenoiserConfig(flux=drawn))


def distill_workers() -> Workers:
    """A GPU each."""
    return flux.distill_workers()
