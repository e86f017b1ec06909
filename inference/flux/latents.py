"""FLUX's latents: pixels through the VAE and back, scaled and shifted, packed into the transformer's tokens.

Pixels are (B, 3, H, W) in [-1, 1], latents (B, C, h, w), tokens (B, h/2 * w/2, 4C). Images are square here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Posterior = Literal["mode", "sample"]


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, h/2 * w/2, 4C), FLUX's 2 x 2 patches."""
    b, c, h, w = latents.shape
    latents = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: torch.Tensor, side: int) -> torch.Tensor:
    """The way back, of side * side tokens: (B, side * side, 4C) -> (B, C, 2 * side, 2 * side)."""
    b, _, channels = tokens.shape
    tokens = tokens.reshape(b, side, side, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return tokens.reshape(b, channels // 4, 2 * side, 2 * side)


def image_ids(rows: int, columns: int) -> torch.Tensor:
    """Position ids of image tokens, float32 (rows * columns, 3): (0, row, column)."""
    import torch

    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    return ids.reshape(-1, 3)


def tokens_a_side(pipeline: Any, size_px: int) -> int:
    """FLUX's tokens along one side of a square image: each is 2 x 2 of the VAE's."""
    return size_px // (2 * pipeline.vae_scale_factor)


def normalized(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """What the VAE's encoder gives, as the transformer sees it: mean 0 and deviation 1, about."""
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def denormalized(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    """What the VAE's decoder takes."""
    return latents / vae.config.scaling_factor + vae.config.shift_factor


def to_pixels(images: np.ndarray, device: Any = "cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> pixels, float32 unless it is said otherwise. They lie in memory as the images do, channels
    last."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).to(device, dtype or torch.float32) / 127.5 - 1


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """The way back, on the CPU: uint8 (B, H, W, 3)."""
    import torch

    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def encode_images(
    pipeline: Any,
    images: Sequence[np.ndarray],
    size_px: int,
    posterior: Posterior = "mode",
    seeds: Sequence[int] = (),
) -> torch.Tensor:
    """Tokens (B, N, channels) of images uint8 (H, W, 3), brought to a square of `size_px`. posterior: what is taken of
    what the VAE says; a sample is each image's own, by its seed."""
    from PIL import Image

    vae = pipeline.vae
    size = (size_px, size_px)
    small = [
        image if image.shape[:2] == size else np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for image in images
    ]
    pixels = to_pixels(np.stack(small), vae.device, vae.dtype)
    said = vae.encode(pixels).latent_dist
    latents = said.mode()
    if posterior == "sample":
        latents = latents + said.std * _noise(seeds, latents)
    return pack(normalized(latents, vae))


def _noise(seeds: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Normal noise of the shape of `like`, drawn on the CPU, each image's by its own seed."""
    import torch

    shape = like.shape[1:]
    drawn = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed % 2**63)) for seed in seeds]
    return torch.stack(drawn).to(like)


def decode_tokens(pipeline: Any, tokens: torch.Tensor, size_px: int) -> torch.Tensor:
    """Pixels (B, 3, size_px, size_px) of tokens, not clamped; with a gradient, where tokens have one."""
    vae = pipeline.vae
    latents = denormalized(unpack(tokens, tokens_a_side(pipeline, size_px)), vae)
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0]


def decode_latents(pipeline: Any, tokens: torch.Tensor, size_px: int) -> np.ndarray:
    """float32 (B, H, W, 3) in [0, 1] of tokens, as the pipeline rounds them."""
    return pipeline.image_processor.postprocess(decode_tokens(pipeline, tokens, size_px), output_type="np")
