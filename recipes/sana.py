"""sana: Sana 1.6B at 512 px, the small generator of Dual-Process Distillation (§4.1: two 24 GB cards)."""

from __future__ import annotations

from dataclasses import replace

from inference.generator import GeneratorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from pipelines.stage import Workers
from recipes import flux
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process_config import DualProcessConfig
from trainers.sana_denoiser import SanaConfig

MODEL = "Efficient-Large-Model/Sana_1600M_512px_diffusers"


def generator() -> GeneratorConfig:
    """20 steps with guidance 4.5, its class's."""
    return GeneratorConfig("diffusers", None, diffusers=DiffusersGeneratorConfig(MODEL, steps=20, size_px=512))


def dual_process() -> DualProcessConfig:
    """As FLUX's, but for the published learning rate (configs/pipe/sana.yaml). Attention alone gets a LoRA: the
    published code gives the convolutions between, too, one of which peft cannot give a rank of 16 (5,600 groups).
    The VLM may have the second card: --teacher.device cuda:1."""
    drawn = SanaConfig(MODEL, num_steps=20, size_px=512, max_text_length=300, guidance=4.5)
    return replace(flux.distillation(DenoiserConfig("sana", flux=None, sana=drawn)), learning_rate=5e-6)


def distill_workers() -> Workers:
    """A GPU each."""
    return flux.distill_workers()
