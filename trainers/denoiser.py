"""An image generator as the distillation sees it: noise, a velocity with a gradient, the clean estimate, a decoder.

Rectified flow (Dual-Process Distillation, Eq. 1, 2 and 5): z_t = (1 - t) x0 + t noise, and the network tells the
velocity noise - x0; one step from t to 0 gives the clean estimate x0 = z_t - t * velocity.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

ADAPTER = "default"  # the name under which peft keeps the LoRA that is trained


class Denoiser(Protocol):
    """A generator whose network takes a LoRA. z: latents of any shape, one image a row."""

    @property
    def network(self) -> torch.nn.Module:
        """What predicts the velocity: a diffusers model, frozen but for the LoRA."""
        ...

    @property
    def times(self) -> tuple[float, ...]:
        """The times of the denoising steps, falling, and 0 at the end: one more than there are steps."""
        ...

    def encode(self, prompt: str) -> Any:
        """The prompt as `velocity` takes it, of one image."""
        ...

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """z at the first time, one for each seed."""
        ...

    def velocity(self, z: torch.Tensor, time: float, text: Any) -> torch.Tensor:
        """Of the same shape as z; every image has the same text."""
        ...

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Latents -> images (B, 3, H, W), black 0 and white 1: as the VAE gives them, which may be beyond."""
        ...

    @property
    def vae(self) -> torch.nn.Module:
        """What decodes: a diffusers model, frozen."""
        ...

    def text_encoders_to(self, device: str) -> None:
        """Move what encodes prompts: it is not needed between them."""
        ...

    def save_lora(self, folder: Path) -> None:
        """Write the LoRA as its diffusers pipeline loads it."""
        ...


def denoise_to(denoiser: Denoiser, z: torch.Tensor, text: Any, step: int) -> torch.Tensor:
    """z at the time of a step (0: as it is), by Euler steps without a gradient."""
    import torch

    with torch.no_grad():
        return _euler(denoiser, z, text, range(step))


def clean_estimate(denoiser: Denoiser, z: torch.Tensor, text: Any, step: int, num_steps: int = 1) -> torch.Tensor:
    """z at the time of `step` -> images (B, 3, H, W) as `decode` gives them, with a gradient.

    The last of `num_steps` denoising steps goes straight to time 0 (Eq. 5); those before it are ordinary ones.
    """
    last = step + num_steps - 1
    z, time = _euler(denoiser, z, text, range(step, last)), denoiser.times[last]
    return denoiser.decode(z - denoiser.velocity(z, time, text) * time)


def _euler(denoiser: Denoiser, z: torch.Tensor, text: Any, steps: range) -> torch.Tensor:
    """Eq. 2, once for each step."""
    for step in steps:
        _, z = euler_step(denoiser, z, text, step)
    return z


def euler_step(denoiser: Denoiser, z: torch.Tensor, text: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 2: the velocity at the time of `step`, and z at the next."""
    time, later = denoiser.times[step : step + 2]
    velocity = denoiser.velocity(z, time, text)
    return velocity, z + velocity * (later - time)


def draw(denoiser: Denoiser, text: Any, seeds: Sequence[int]) -> torch.Tensor:
    """Finished images (B, 3, H, W) in [0, 1], without a gradient."""
    import torch

    with torch.no_grad():
        z = denoise_to(denoiser, denoiser.noise(seeds), text, len(denoiser.times) - 1)
        return denoiser.decode(z).clamp(0, 1)


def guided(without: torch.Tensor, told: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022) of the velocities without and with a prompt."""
    return without + scale * (told - without)


def add_lora(network: Any, rank: int, alpha: float, targets: Sequence[str], seed: int) -> list[torch.nn.Parameter]:
    """Freeze the network and give it a LoRA that changes nothing yet. Returns the LoRA's parameters, in float32."""
    import torch
    from peft import LoraConfig

    network.requires_grad_(False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))  # pyright: ignore[reportArgumentType]
        network.add_adapter(config, adapter_name=ADAPTER)
    parameters = lora_parameters(network)
    for parameter in parameters.values():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return list(parameters.values())


def remove_lora(network: Any) -> None:
    """The network as it was before `add_lora`."""
    network.delete_adapters(ADAPTER)


def lora_parameters(network: Any) -> dict[str, torch.nn.Parameter]:
    """What is trained, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def lora_to_save(network: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The LoRA's tensors, and its configuration for the file's header, both with alpha = rank: what it is scaled by is
    in lora_B, since not every loader reads the header."""
    from peft import get_peft_model_state_dict

    config = network.peft_config[ADAPTER]
    scale, tensors = config.lora_alpha / config.r, get_peft_model_state_dict(network, adapter_name=ADAPTER)
    scaled = {name: t * scale if "lora_B" in name else t for name, t in tensors.items()}
    return scaled, plain_lora_config(config) | {"lora_alpha": config.r}


def plain_lora_config(config: Any) -> dict[str, Any]:
    """A peft configuration for the header of a LoRA file: plain JSON in an order that is always the same."""
    plain = {}
    for name, value in sorted(config.to_dict().items()):
        plain[name] = sorted(value) if isinstance(value, set) else value
    return plain
