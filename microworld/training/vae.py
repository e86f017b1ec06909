# pyright: reportArgumentType=false
# diffusers gives block tuples a length of one, and decorated methods another signature.
"""Train the micro VAE: AutoencoderKL, 32 px -> 8 x 8 latents of 4 channels (f = 4)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inference.flux.latents import to_pixels
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class VaeRecipe:
    """L1 + 2 MSE + kl_weight KL, as measured to reach 32 dB in two minutes on two cores."""

    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_mse: float = 2.0
    weight_kl: float = 1e-3
    ema_decay: float = 0.995


def build_vae() -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def train(config: MicroTrainingConfig) -> None:
    """Train for `config.minutes`, then write `out_dir/flux/vae` with the shift and scale of its latents set."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from microworld.scenes.world import random_scene, render

    recipe = VaeRecipe()
    prepare_process(config)
    vae = build_vae().to(config.device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    training = Training(
        config, "vae", vae, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay, warmup=0.02, decay=0.3
    )
    rng = np.random.default_rng(training.seed(0))

    def batch(size: int) -> torch.Tensor:
        pixels = to_pixels(render([random_scene(rng) for _ in range(size)]).images).contiguous()
        return pixels.to(config.device)

    def losses(pixels: torch.Tensor, use_bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(config.device, use_bf16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample.float()
        mse = F.mse_loss(decoded, pixels)
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        return F.l1_loss(decoded, pixels) + recipe.weight_mse * mse + recipe.weight_kl * kl, mse

    use_bf16 = training.pick_bf16(lambda use_bf16: losses(batch(recipe.batch_size), use_bf16)[0])
    while training.clock.running():
        loss, mse = losses(batch(recipe.batch_size), use_bf16)
        metrics = {"loss": loss.item(), "psnr": float(10 * np.log10(4 / mse.item()))}
        training.step(loss, recipe.batch_size, metrics)
    training.checkpoint()
    with training.ema.applied(), torch.no_grad():
        vae.eval()
        pixels = batch(256)
        latents = vae.encode(pixels).latent_dist.mean
        mse = F.mse_loss(vae.decode(latents).sample.clamp(-1, 1), pixels)
        print(f"vae: PSNR {10 * np.log10(4 / mse.item()):.2f} dB on 256 new scenes", flush=True)
        vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item())
        export_folder(lambda folder: save_vae(vae, folder), config.out_dir / "flux" / "vae")


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """A bfloat16 safetensors folder. The model itself stays as it is."""
    import copy

    import torch

    copy.deepcopy(vae).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    train(MicroTrainingConfig(minutes=float(sys.argv[1])))
