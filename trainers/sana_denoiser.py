"""Sana as a denoiser: another generator behind the same Protocol (Dual-Process Distillation, §4.1: two 24 GB cards)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.denoiser import ADAPTER
from trainers.flux_denoiser import plain_lora_config

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


@dataclass(frozen=True)
class SanaText:
    """Gemma's states (1, T, d) and which of them count, (1, T)."""

    embeds: torch.Tensor
    mask: torch.Tensor


class SanaDenoiser:
    """See `trainers.denoiser.Denoiser`, around a `diffusers.SanaPipeline`. Latents are (B, C, h, w). No classifier-free
    guidance: one forward pass a step."""

    def __init__(self, pipeline: Any, num_steps: int, size_px: int, max_text_length: int = 300) -> None:
        """The pipeline's scheduler must predict flows; its times are used, Euler steps are taken."""
        self.pipeline, self._size_px, self._max_text_length = pipeline, size_px, max_text_length
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()
        pipeline.scheduler.set_timesteps(num_steps)
        sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
        self.times = (*sigmas[:num_steps], 0.0)

    @property
    def network(self) -> torch.nn.Module:
        return self.pipeline.transformer

    def encode(self, prompt: str) -> SanaText:
        """The text as the pipeline encodes it, without its instruction to rewrite prompts."""
        import torch

        with torch.no_grad():
            embeds, mask, _, _ = self.pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=self._max_text_length
            )
        return SanaText(embeds, mask)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """(B, C, h, w) float32, each from its own CPU generator."""
        import torch

        transformer, pipeline = self.pipeline.transformer, self.pipeline
        generators = [torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds]
        return pipeline.prepare_latents(
            len(seeds),
            transformer.config.in_channels,
            self._size_px,
            self._size_px,
            torch.float32,
            transformer.device,
            generators,
        )

    def velocity(self, z: torch.Tensor, time: float, text: SanaText) -> torch.Tensor:
        """(B, C, h, w)."""
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
        """(B, 3, size, size) in [0, 1]."""
        vae = self.pipeline.vae
        pixels = vae.decode(x0.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        return (pixels / 2 + 0.5).clamp(0, 1)

    def save_lora(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, as `SanaPipeline.load_lora_weights` reads it."""
        from diffusers import SanaPipeline
        from peft import get_peft_model_state_dict

        transformer: Any = self.pipeline.transformer
        layers: Any = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
        SanaPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata=plain_lora_config(transformer.peft_config[ADAPTER]),
        )
