"""What `inference generate` is told so that it draws as a LoRA was taught: a preset, and what it says otherwise."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import Any

from inference.flux.generator import FluxGeneratorConfig
from recipes import catalogue
from trainers.denoiser_config import DenoiserConfig
from trainers.sana_denoiser import SanaConfig

FALLBACK = "flux"  # a preset that draws, where the training's does not
APART = ("lora", "batch_size")  # named for each concept, and no part of what an image is


def drawing_flags(preset: str, taught: DenoiserConfig) -> str:
    """Flags of `inference generate`, but for the LoRA. Sana is drawn by its pipeline, whose solver is its own."""
    if preset not in catalogue.names("generator"):
        preset = FALLBACK
    there = catalogue.load(preset, "generator")
    used = taught.used
    if isinstance(used, SanaConfig):
        from inference.generators.diffusers_generator import DiffusersGeneratorConfig

        used = DiffusersGeneratorConfig(
            used.model,
            steps=used.num_steps,
            guidance=used.guidance,
            size_px=used.size_px,
            text_length=used.max_text_length,
            dtype=used.dtype,
        )
    if isinstance(used, FluxGeneratorConfig):  # the LoRA that it was taught on top of stays below the taught one
        used = replace(used, few_steps_lora=used.few_steps_lora or used.lora)
    kind = taught.drawn_by
    has: Any = getattr(there, kind) or type(used)()
    flags = [f"--preset {preset}"] + ([f"--generator.kind {kind}"] if there.kind != kind else [])
    for field in fields(used):
        said, value = getattr(has, field.name), getattr(used, field.name)
        if field.metadata.get("role") != "execution" and field.name not in APART and value != said:
            words = value if isinstance(value, tuple) else (value,)
            told = " ".join(shlex.quote(str(word)) for word in words)
            flags.append(f"--generator.{kind}.{field.name.replace('_', '-')} {told}")
    return " ".join(flags)
