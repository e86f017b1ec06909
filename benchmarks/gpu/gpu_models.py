"""FLUX.1-dev, its VAE and Qwen2.5-VL-7B with random weights, made where they run; and the same classes at tiny size.

Speed and memory depend on the architecture alone. Images of random weights show nothing: differences between two ways
of computing them say how numbers are rounded, not how pictures look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

FLUX_DEV = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
FLUX_TINY = FLUX_DEV | {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}
# Qwen/Qwen2.5-VL-7B-Instruct, config.json.
VLM_7B_TEXT = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "mrope_section": [16, 24, 24],
}
VLM_7B_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
VLM_TINY_TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "mrope_section": [4, 6, 6],
}
VLM_TINY_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}


@dataclass(frozen=True)
class Size:
    """What is built and drawn."""

    flux: dict[str, Any]
    vlm_text: dict[str, Any]
    vlm_vision: dict[str, Any]
    vae_channels: tuple[int, ...]
    image_px: int
    condition_px: int
    dual_px: int
    text_tokens: int
    corrector_rank: int
    image_steps: int
    """Of the images that are drawn whole."""
    forward_tflop: float | None
    """TFLOP of a forward pass at image_px, counted from the architecture (products of matrices and attention)."""
    joint_tflop: float | None
    """The same with the condition's tokens in every pass."""


FULL = Size(
    FLUX_DEV, VLM_7B_TEXT, VLM_7B_VISION, (128, 256, 512, 512), 1024, 512, 512, 512, 256, 28, forward_tflop=74.4,
    joint_tflop=94.9,
)  # fmt: skip
TINY = Size(
    FLUX_TINY, VLM_TINY_TEXT, VLM_TINY_VISION, (8, 16, 16, 16), 64, 32, 64, 16, 8, 2, forward_tflop=None,
    joint_tflop=None,
)  # fmt: skip


@contextmanager
def built_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside lie on the device, in the dtype, at once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def spread(module: torch.nn.Module, gain: float = 1.0) -> None:
    """Weights normal with standard deviation gain / sqrt(inputs), so that activations keep their size; biases small."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=gain / (parameter[0].numel() ** 0.5))
            elif name.endswith("bias"):
                parameter.normal_(std=0.01)


def build_transformer(size: Size, device: str, dtype: torch.dtype) -> Any:
    """A FluxTransformer2DModel, frozen."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    with built_on(device, dtype):
        transformer: Any = FluxTransformer2DModel(**size.flux)
    spread(transformer)
    return transformer.eval().requires_grad_(False)


def build_pipeline(transformer: Any, size: Size, device: str, dtype: torch.dtype) -> Any:
    """A FluxPipeline without text encoders."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

    channels: Any = size.vae_channels  # typed for one block where it takes any number
    down: Any = ("DownEncoderBlock2D",) * len(channels)
    up: Any = ("UpDecoderBlock2D",) * len(channels)
    with built_on(device, dtype):
        vae: Any = AutoencoderKL(
            down_block_types=down,
            up_block_types=up,
            block_out_channels=channels,
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=min(32, size.vae_channels[0]),
            sample_size=1024,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    nothing: Any = None
    vae.eval().requires_grad_(False)
    pipeline: Any = FluxPipeline(scheduler, vae, nothing, nothing, nothing, nothing, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_vlm(size: Size, device: str, dtype: torch.dtype) -> Any:
    """A Qwen2_5_VLForConditionalGeneration, frozen, its image token the vocabulary's last."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = dict(size.vlm_text)
    rope = {"rope_type": "default", "mrope_section": text.pop("mrope_section"), "rope_theta": 1_000_000.0}
    image_token = text["vocab_size"] - 1
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 1},
        vision_config=dict(size.vlm_vision),
        image_token_id=image_token,
        video_token_id=image_token - 1,
        vision_start_token_id=image_token - 2,
        vision_end_token_id=image_token - 3,
    )
    with built_on(device, dtype):
        vlm: Any = Qwen2_5_VLForConditionalGeneration(config)
    spread(vlm)
    return vlm.eval().requires_grad_(False)


@dataclass(frozen=True)
class Inputs:
    """Random inputs of a forward pass of a FluxTransformer2DModel."""

    latents: torch.Tensor
    timestep: torch.Tensor
    guidance: torch.Tensor
    prompt_embeds: torch.Tensor
    pooled: torch.Tensor
    image_ids: torch.Tensor
    text_ids: torch.Tensor

    @property
    def named(self) -> dict[str, Any]:
        """As the transformer takes them."""
        return {
            "hidden_states": self.latents,
            "timestep": self.timestep,
            "guidance": self.guidance,
            "encoder_hidden_states": self.prompt_embeds,
            "pooled_projections": self.pooled,
            "img_ids": self.image_ids,
            "txt_ids": self.text_ids,
            "joint_attention_kwargs": {},  # as the pipeline does: None would be another program to the compiler
            "return_dict": False,
        }


def random_inputs(size: Size, px: int, batch: int, device: str, dtype: torch.dtype) -> Inputs:
    """Of `batch` images of px x px; a token is 16 px."""
    from inference.flux.conditioning import condition_ids

    torch.manual_seed(1)
    side = px // 16
    with torch.device(device):
        return Inputs(
            torch.randn(batch, side * side, size.flux["in_channels"], dtype=dtype),
            torch.full((batch,), 0.5, dtype=dtype),
            torch.full((batch,), 3.5),
            torch.randn(batch, size.text_tokens, size.flux["joint_attention_dim"], dtype=dtype),
            torch.randn(batch, size.flux["pooled_projection_dim"], dtype=dtype),
            condition_ids(side, side, 0).to(dtype),
            torch.zeros(size.text_tokens, 3, dtype=dtype),
        )
