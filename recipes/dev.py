"""dev: FLUX.1-dev as Dual-Process Distillation teaches it, and drawn as it was taught."""

from __future__ import annotations

from inference.generator import GeneratorConfig
from pipelines.stage import Workers
from recipes import flux
from trainers.dual_process_config import DualProcessConfig


def generator() -> GeneratorConfig:
    """28 steps without guidance at 512 px, static shift: a concept's LoRA is drawn as it was taught."""
    return GeneratorConfig("flux", dual_process().generator.flux)


def dual_process() -> DualProcessConfig:
    """As flux's."""
    return flux.dual_process()


def distill_workers() -> Workers:
    """A GPU each."""
    return flux.distill_workers()
