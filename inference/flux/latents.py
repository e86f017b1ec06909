"""FLUX's latents: pixels through the VAE and back, scaled and shifted, packed into the transformer's tokens.

Pixels are (B, 3, H, W) in [-1, 1], latents (B, C, h, w), tokens (B, h/2 * w/2, 4C), row after row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schemas.configuration import stable_seed
from schemas.errors import InputError
from schemas.image_size import ImageSize

if TYPE_CHECKING:
    import torch

Posterior = Literal["mode", "sample"]


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, h/2 * w/2, 4C), FLUX's 2 x 2 patches."""
    b, c, h, w = latents.shape
    latents = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The way back, of rows * columns tokens: (B, rows * columns, 4C) -> (B, C, 2 * rows, 2 * columns)."""
    b, _, channels = tokens.shape
    tokens = tokens.reshape(b, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return tokens.reshape(b, channels // 4, 2 * rows, 2 * columns)


def image_ids(rows: int, columns: int) -> torch.Tensor:
    """Position ids of image tokens, float32 (rows * columns, 3): (0, row, column)."""
    import torch

    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    return ids.reshape(-1, 3)


def token_px(pipeline: Any) -> int:
    """Side of what one token shows: 2 x 2 of the VAE's pixels. Images' sides are multiples of it."""
    return 2 * pipeline.vae_scale_factor


def token_grid(pipeline: Any, size: ImageSize) -> tuple[int, int]:
    """(rows, columns) of FLUX's tokens for an image."""
    return size.height // token_px(pipeline), size.width // token_px(pipeline)


def check_drawable(sizes: Iterable[ImageSize], step_px: int, field: str = "sizes") -> None:
    """InputError, which names the nearest ones, for sizes that are no whole number of tokens of `step_px`."""
    for size in dict.fromkeys(sizes):
        if size.width % step_px or size.height % step_px:
            low, high = drawable(size, step_px), drawable(size, step_px, up=True)
            nearest = [ImageSize(w, h) for w in (low.width, high.width) for h in (low.height, high.height)]
            raise InputError(
                f"{size} px: this model draws images whose sides are multiples of {step_px}",
                field=field,
                expected=" or ".join(map(str, dict.fromkeys(nearest))),
            )


def drawable(size: ImageSize, step_px: int, up: bool = False) -> ImageSize:
    """The size with both sides rounded down to whole tokens, of which there is at least one; up: rounded up."""
    width, height = (-(-side // step_px) if up else side // step_px for side in (size.width, size.height))
    return ImageSize(max(1, width) * step_px, max(1, height) * step_px)


def condition_size(drawn: ImageSize, condition_px: int, step_px: int) -> ImageSize:
    """How large a flawed image is shown where one of `drawn` is to be drawn: at about its aspect, in about as many
    tokens as a square of `condition_px` has; a square is shown as exactly that."""
    if drawn.width == drawn.height:
        return ImageSize.square(condition_px)
    stretch = math.sqrt(drawn.width / drawn.height)
    width, height = (max(1, round(side / step_px)) for side in (condition_px * stretch, condition_px / stretch))
    return ImageSize(width * step_px, height * step_px)


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
    size: ImageSize,
    posterior: Posterior = "mode",
    seeds: Sequence[int] = (),
) -> torch.Tensor:
    """Tokens (B, N, channels) of images uint8 (H, W, 3), brought to `size`. posterior: what is taken of what the VAE
    says; a sample is each image's own, by its seed."""
    vae = pipeline.vae
    pixels = to_pixels(np.stack([resized(image, size) for image in images]), vae.device, vae.dtype)
    said = vae.encode(pixels).latent_dist
    latents = said.mode()
    if posterior == "sample":
        latents = latents + said.std * _noise(seeds, latents)
    return pack(normalized(latents, vae))


def resized(image: np.ndarray, size: ImageSize) -> np.ndarray:
    """An image uint8 (H, W, 3) at another size, bicubic; itself where it has that size."""
    from PIL import Image

    if image.shape[:2] == (size.height, size.width):
        return image
    return np.asarray(Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BICUBIC))


def _noise(seeds: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Normal noise of the shape of `like`, drawn on the CPU, each image's by its own seed."""
    return seeded_noise(seeds, like.shape[1:]).to(like)


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Normal noise float32 (B, *shape), drawn on the CPU, each image's by its own seed."""
    import torch

    return torch.stack([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(s % 2**63)) for s in seeds])


def partly_shared_noise(
    pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], size: ImageSize, share: float
) -> torch.Tensor:
    """Tokens (B, N, channels) of normal noise. share: of its variance, in [0, 1], which all images of one prompt have
    in common; the rest is each image's own, by its seed."""
    rows, columns = token_grid(pipeline, size)
    shape = (pipeline.transformer.config.in_channels // 4, 2 * rows, 2 * columns)
    common = seeded_noise([stable_seed("shared noise", prompt) for prompt in prompts], shape)
    return pack(share**0.5 * common + (1 - share) ** 0.5 * seeded_noise(seeds, shape))


def decode_tokens(pipeline: Any, tokens: torch.Tensor, size: ImageSize) -> torch.Tensor:
    """Pixels (B, 3, H, W) of tokens, not clamped; with a gradient, where tokens have one."""
    vae = pipeline.vae
    latents = denormalized(unpack(tokens, *token_grid(pipeline, size)), vae)
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0]


def decode_latents(pipeline: Any, tokens: torch.Tensor, size: ImageSize) -> np.ndarray:
    """float32 (B, H, W, 3) in [0, 1] of tokens, as the pipeline rounds them."""
    return pipeline.image_processor.postprocess(decode_tokens(pipeline, tokens, size), output_type="np")
