"""Sana as a denoiser: another generator behind the same Protocol (Dual-Process Distillation, §4.1: two 24 GB cards)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from schemas.configuration import execution_field, model_field
from schemas.errors import InputError
from trainers.denoiser import guided, lora_to_save

if TYPE_CHECKING:
    import torch

LORA_TARGETS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
)
"""Self- and cross-attention of every block."""


@dataclass(frozen=True)
class SanaConfig:
    """Which Sana draws, and how."""

    model: str = model_field("Efficient-Large-Model/Sana_1600M_512px_diffusers")
    """Local folder or hub id of a `diffusers.SanaPipeline` whose scheduler predicts flows."""
    num_steps: int = 20
    """Denoising steps."""
    size_px: int = 512
    """Height and width."""
    max_text_length: int = 300
    """Gemma's tokens, padding included: a prompt is padded to so many, and cut there."""
    guidance: float = 4.5
    """Classifier-free, led away from the empty text (SanaPipeline's own): above 1 a step is two forward passes."""
    batch_size: int = 1
    """Images a forward pass, where finished ones are drawn."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of all weights; the LoRA is trained in float32."""
    device: str = execution_field("cuda")
    """Where it computes."""

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.max_text_length) < 1:
            raise InputError(
                f"{self.num_steps} steps, {self.batch_size} images, {self.max_text_length} tokens",
                field="num_steps, batch_size, max_text_length",
                expected="all at least 1",
            )


@dataclass(frozen=True)
class SanaText:
    """Gemma's states (1, T, d) and which of them count, (1, T); negative: of the empty text, where there is
    guidance."""

    embeds: torch.Tensor
    mask: torch.Tensor
    negative: SanaText | None = None


class SanaDenoiser:
    """See `trainers.denoiser.Denoiser`, around a `diffusers.SanaPipeline`. Latents are (B, C, h, w). The scheduler's
    times are used, Euler steps are taken."""

    def __init__(self, config: SanaConfig) -> None:
        """Loads the pipeline. MissingWeightsError where the model is not on this machine."""
        import torch
        from diffusers import SanaPipeline

        from inference.sound_weights import loaded_whole, sound_model

        folder = sound_model(config.model)
        with loaded_whole(folder):
            pipeline: Any = SanaPipeline.from_pretrained(folder, dtype=getattr(torch, config.dtype))
        pipeline.set_progress_bar_config(disable=True)
        self.config, self.pipeline = config, pipeline.to(config.device)
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        pipeline.scheduler.set_timesteps(config.num_steps)
        sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
        self.times = (*sigmas[: config.num_steps], 0.0)

    @property
    def network(self) -> torch.nn.Module:
        return self.pipeline.transformer

    def encode(self, prompt: str) -> SanaText:
        """The text as the pipeline encodes it, without its instruction to rewrite prompts."""
        import torch

        is_guided = self.config.guidance > 1
        with torch.no_grad():
            embeds, mask, without, without_mask = self.pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=is_guided, max_sequence_length=self.config.max_text_length
            )
        return SanaText(embeds, mask, SanaText(without, without_mask) if is_guided else None)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """(B, C, h, w) float32, each from its own CPU generator."""
        import torch

        transformer, pipeline = self.pipeline.transformer, self.pipeline
        generators = [torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds]
        return pipeline.prepare_latents(
            len(seeds),
            transformer.config.in_channels,
            self.config.size_px,
            self.config.size_px,
            torch.float32,
            transformer.device,
            generators,
        )

    def velocity(self, z: torch.Tensor, time: float, text: SanaText) -> torch.Tensor:
        """(B, C, h, w)."""
        told = self._velocity(z, time, text)
        if text.negative is None:
            return told
        return guided(self._velocity(z, time, text.negative), told, self.config.guidance)

    def _velocity(self, z: torch.Tensor, time: float, text: SanaText) -> torch.Tensor:
        import torch

        batch, transformer = len(z), self.pipeline.transformer
        scale = self.pipeline.scheduler.config.num_train_timesteps * transformer.config.timestep_scale
        predicted = transformer(
            z.to(transformer.dtype),
            encoder_hidden_states=text.embeds.to(transformer.dtype).expand(batch, -1, -1),
            encoder_attention_mask=text.mask.expand(batch, -1),
            timestep=torch.full((batch,), time * scale, device=z.device, dtype=z.dtype),
            return_dict=False,
        )[0]
        return predicted[:, : z.shape[1]].to(z.dtype)  # some also tell a variance

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size)."""
        vae = self.pipeline.vae
        pixels = vae.decode(x0.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return pixels / 2 + 0.5

    @property
    def vae(self) -> torch.nn.Module:
        return self.pipeline.vae

    def text_encoders_to(self, device: str) -> None:
        """Gemma."""
        self.pipeline.text_encoder.to(device)

    def save_lora(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, as `SanaPipeline.load_lora_weights` reads it."""
        from diffusers import SanaPipeline

        layers, described = lora_to_save(self.network)
        SanaPipeline.save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=described
        )
