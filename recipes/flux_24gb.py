"""flux-24gb: the models of flux on one consumer card, weights in fp8, models in main memory while they wait."""

from __future__ import annotations

from dataclasses import replace

from inference.generator import GeneratorConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.rewards.reward import RewardConfig
from inference.vlm.vlm import VlmConfig
from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.placement import Cluster
from pipelines.stage import Workers
from recipes import flux

ONE = Workers(count=1, cpus=2.0, gpus=1.0)


def generator() -> GeneratorConfig:
    """FLUX.1-dev, its transformer in fp8; T5, transformer and VAE take turns on the card."""
    drawn = flux.generator()
    assert drawn.flux is not None
    return replace(drawn, flux=replace(drawn.flux, quantization="fp8", offload="model", compile="none"))


def dataset() -> DatasetConfig:
    """As flux's, one worker a stage, one stage after the other."""
    base = flux.dataset()
    return replace(
        base,
        num_prompts=200,
        generate=replace(base.generate, generator=generator(), workers=ONE),
        ground=replace(base.ground, workers=ONE),
    )


def run_options() -> RunOptions:
    """One stage after the other."""
    return flux.run_options()


def cluster() -> Cluster:
    """One RTX 4090."""
    return Cluster(gpus=1, gpu_type="rtx4090")


def grounding() -> GroundedSamConfig:
    """As flux's."""
    return flux.grounding()


def rewards() -> tuple[RewardConfig, ...]:
    """As flux's."""
    return flux.rewards()


def vlm() -> VlmConfig:
    """As flux's."""
    return flux.vlm()
