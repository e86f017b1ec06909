"""Rendered images made to look like generated ones: through the generator's VAE, with noise on their latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.flux.latents import to_images, to_pixels
from inference.sound_weights import sound_weights
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

BATCH = 128


class VaeNoise:
    """A share of the images goes through the VAE, each with its own level of noise; most with little."""

    def __init__(self, folder: Path, share: float, max_noise: float = 0.25, device: str = "cpu") -> None:
        """max_noise: standard deviation, as a share of the latents' own. InputError where there is no VAE."""
        import torch
        from diffusers import AutoencoderKL

        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder} holds no VAE",
                expected="`python -m trainers micro --model vae` first: judge and rewards learn on its pictures",
            )
        self._share, self._max_noise, self._device = share, max_noise, device
        vae: Any = AutoencoderKL.from_pretrained(sound_weights(folder), dtype=torch.float32)
        self._vae = vae.to(device).eval().requires_grad_(False)

    def __call__(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, 3) in and out."""
        images = images.copy()
        chosen = rng.random(len(images)) < self._share
        images[chosen] = self.all(rng, images[chosen])
        return images

    def all(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """Every image, not a share of them."""
        return self.decode(self.disturb(rng, self.encode(images), rng.uniform(0, 1, len(images)) ** 2))

    def disturb(self, rng: np.random.Generator, latents: torch.Tensor, levels: np.ndarray) -> torch.Tensor:
        """Noise of `levels` (B,), as shares of the greatest level."""
        import torch

        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        scale = torch.from_numpy(levels.astype(np.float32))[:, None, None, None] * self._max_noise
        return latents + noise * scale * (latents.std() if len(latents) else 0.0)

    def encode(self, images: np.ndarray) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> latents float32 (B, C, h, w), on the CPU."""
        import torch

        with torch.inference_mode():
            pixels = to_pixels(images).split(BATCH)
            parts = [self._vae.encode(p.to(self._device)).latent_dist.mode().cpu() for p in pixels]
        return torch.cat(parts)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """The way back."""
        import torch

        with torch.inference_mode():
            decoded = torch.cat([self._vae.decode(part.to(self._device)).sample.cpu() for part in latents.split(BATCH)])
        return to_images(decoded)
