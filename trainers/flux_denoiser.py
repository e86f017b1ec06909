"""FLUX as a denoiser: schnell at one step, dev at one of its 28, or the micro FLUX; the same noise as at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.flux.generator import FluxGenerator
from inference.flux.latents import decode_tokens
from schemas.image_size import ImageSize
from trainers.denoiser import guided, lora_to_save

if TYPE_CHECKING:
    import torch

TEXT_TARGETS = (
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)
"""Weights that the text has for itself, in the double-stream blocks: through them what is drawn changes, not how."""
LORA_TARGETS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", *TEXT_TARGETS)
"""The published ones (interop)."""


@dataclass(frozen=True)
class FluxText:
    """T5 states (1, T, d), CLIP's pooled vector (1, d), position ids (T, 3); negative: of the empty text that true
    guidance leads away from."""

    embeds: torch.Tensor
    pooled: torch.Tensor
    ids: torch.Tensor
    negative: FluxText | None = None


class FluxDenoiser:
    """See `trainers.denoiser.Denoiser`. Latents are packed: (B, tokens, 4 * channels)."""

    def __init__(self, generator: FluxGenerator) -> None:
        import numpy as np
        import torch
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

        self.generator, self.pipeline = generator, generator.pipeline
        config, pipeline = generator.config, generator.pipeline
        for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer):
            part.requires_grad_(False)
        self._device = torch.device(config.device)
        sample, self._image_ids = self._latents([0])
        # As `FluxPipeline.__call__` sets its scheduler.
        scheduler = pipeline.scheduler
        settings = [
            scheduler.config.get(name, default)
            for name, default in (
                ("base_image_seq_len", 256),
                ("max_image_seq_len", 4096),
                ("base_shift", 0.5),
                ("max_shift", 1.15),
            )
        ]
        steps = config.num_steps
        sigmas: Any = None if scheduler.config.get("use_flow_sigmas") else np.linspace(1.0, 1 / steps, steps)
        shift = calculate_shift(sample.shape[1], *settings)
        retrieve_timesteps(scheduler, steps, config.device, sigmas=sigmas, mu=shift)
        self.times = tuple(scheduler.sigmas.tolist())

    @property
    def network(self) -> torch.nn.Module:
        return self.pipeline.transformer

    def encode(self, prompt: str) -> FluxText:
        """The text as `FluxGenerator` encodes it."""
        import torch

        length = self.generator.text_length(prompt)

        def encoded(text: str, negative: FluxText | None = None) -> FluxText:
            embeds, pooled = self.generator.encode_text(text, length)
            ids = torch.zeros(length, 3, device=embeds.device, dtype=embeds.dtype)
            return FluxText(embeds, pooled, ids, negative)

        return encoded(prompt, encoded("") if self.generator.config.true_cfg_scale > 1 else None)

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """(B, tokens, 4 * channels), each from its own CPU generator, as `FluxGenerator` draws it."""
        return self._latents(seeds)[0]

    def velocity(self, z: torch.Tensor, time: float, text: FluxText) -> torch.Tensor:
        """(B, tokens, 4 * channels)."""
        told = self._velocity(z, time, text)
        if text.negative is not None:
            without = self._velocity(z, time, text.negative)
            told = guided(without, told, self.generator.config.true_cfg_scale)
        return told.to(z.dtype)

    def _velocity(self, z: torch.Tensor, time: float, text: FluxText) -> torch.Tensor:
        import torch

        batch, transformer = len(z), self.pipeline.transformer
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.generator.config.guidance, device=z.device)
        return transformer(
            hidden_states=z.to(text.embeds.dtype),
            timestep=torch.full((batch,), time, device=z.device, dtype=text.embeds.dtype),
            guidance=guidance,
            pooled_projections=text.pooled.expand(batch, -1),
            encoder_hidden_states=text.embeds.expand(batch, -1, -1),
            txt_ids=text.ids,
            img_ids=self._image_ids,
            return_dict=False,
        )[0]

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """(B, 3, size, size)."""
        return decode_tokens(self.pipeline, x0, ImageSize.square(self.generator.config.size_px)) / 2 + 0.5

    @property
    def vae(self) -> torch.nn.Module:
        return self.pipeline.vae

    def text_encoders_to(self, device: str) -> None:
        """CLIP and T5."""
        for encoder in (self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            encoder.to(device)

    def save_lora(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`: `FluxPipeline.load_lora_weights`."""
        from diffusers import FluxPipeline

        layers, described = lora_to_save(self.network)
        FluxPipeline.save_lora_weights(
            folder, transformer_lora_layers=layers, transformer_lora_adapter_metadata=described
        )

    def _latents(self, seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        pipeline, size = self.pipeline, self.generator.config.size_px
        generators = [torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds]
        channels = pipeline.transformer.config.in_channels // 4
        dtype = pipeline.transformer.dtype
        return pipeline.prepare_latents(len(seeds), channels, size, size, dtype, self._device, generators)
