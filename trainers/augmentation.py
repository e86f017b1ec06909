"""What the teacher sees, changed a little at every step: a texture that fools a VLM at one place, size and brightness
is mostly lost on it at another, and what a question is about is not.

The image is changed before anything is drawn over it. Only what keeps a question true is done: nothing is turned or
mirrored, and where a visual prompt speaks of places in the image (a horizon, a layout, points), nothing is moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from schemas.configuration import stable_seed
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

MAX_SHARE = 0.5  # of a shift, a zoom, a change of brightness: more leaves little of the image


@dataclass(frozen=True)
class AugmentationConfig:
    """By how much an image is changed at most before the teacher looks, each time by another amount; 0: not at all."""

    shift: float = 0.0
    """To each side, as a share of it; the border's pixels fill what becomes free. Never under a visual prompt."""
    zoom: float = 0.0
    """In or out, as a share of the size (.1: from .9 to 1.1 times). Never under a visual prompt."""
    brightness: float = 0.0
    """Lighter or darker, as a share (.1: every value times .9 to 1.1)."""
    blur: float = 0.0
    """The standard deviation of a Gaussian, as a share of the height."""
    noise: float = 0.0
    """The standard deviation of Gaussian noise, white being 1."""

    def __post_init__(self) -> None:
        for name in ("shift", "zoom", "brightness", "blur", "noise"):
            said, most = getattr(self, name), 0.1 if name == "blur" else MAX_SHARE
            if not 0 <= said <= most:
                raise InputError(f"{name} {said}", field=f"augmentation.{name}", expected=f"from 0 to {most}")

    @property
    def is_on(self) -> bool:
        return any(astuple(self))


def augmented(images: torch.Tensor, config: AugmentationConfig, seeds: Sequence[int], is_moved: bool) -> torch.Tensor:
    """images (B, 3, H, W), black 0 and white 1 -> the same shape, with a gradient, in float32 at least. seeds: one for
    each image; they alone say what becomes of it. is_moved: whether it may be shifted and zoomed."""
    import torch

    images = images if images.dtype == torch.float64 else images.float()
    # On the CPU, whatever the images' device: a training's numbers depend on no card.
    drawn = [_Drawn.of(seed, images.shape[1:], config) for seed in seeds]
    if is_moved and (config.shift or config.zoom):
        images = _moved(images, [one.zoom for one in drawn], [one.shift for one in drawn])
    if config.blur:
        images = _blurred(images, [one.blur * images.shape[-2] for one in drawn], config.blur * images.shape[-2])
    if config.brightness:
        images = images * images.new_tensor([one.brightness for one in drawn])[:, None, None, None]
    if config.noise:
        images = images + config.noise * torch.stack([one.noise for one in drawn]).to(images)
    return images


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What becomes of one image: zoom and brightness are factors, shift is (right, down) in shares of the sides, blur a
    share of the height, noise (3, H, W) of standard deviation 1."""

    zoom: float
    shift: tuple[float, float]
    brightness: float
    blur: float
    noise: Any

    @classmethod
    def of(cls, seed: int, shape: Sequence[int], config: AugmentationConfig) -> _Drawn:
        import torch

        generator = torch.Generator().manual_seed(stable_seed("augmentation", seed))
        either = (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1).tolist()
        blur = float(torch.rand(1, generator=generator, dtype=torch.float64))
        noise = torch.randn(*shape, generator=generator) if config.noise else None
        zoom, right, down, light = either
        moves = (config.shift * right, config.shift * down)
        return cls(1 + config.zoom * zoom, moves, 1 + config.brightness * light, config.blur * blur, noise)


def _moved(images: torch.Tensor, zooms: Sequence[float], shifts: Sequence[tuple[float, float]]) -> torch.Tensor:
    """Each image zoomed about its middle, then shifted; beyond its border it goes on as the border is."""
    from torch.nn import functional as F

    # Where each pixel comes from, in coordinates that run from -1 to 1.
    rows = [
        [[1 / zoom, 0, -2 * right / zoom], [0, 1 / zoom, -2 * down / zoom]]
        for zoom, (right, down) in zip(zooms, shifts, strict=True)
    ]
    grid = F.affine_grid(images.new_tensor(rows), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _blurred(images: torch.Tensor, sigmas_px: Sequence[float], largest_px: float) -> torch.Tensor:
    """Each image under its own Gaussian, along rows and columns."""
    import math

    import torch
    from torch.nn import functional as F

    batch, channels, height, width = images.shape
    radius = min(math.ceil(3 * largest_px), height - 1, width - 1)
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    sigmas = images.new_tensor(sigmas_px).clamp(min=1e-3)[:, None]
    kernels = (-0.5 * (places / sigmas) ** 2).exp()
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None, :]
    flat = images.reshape(1, batch * channels, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernels, groups=batch * channels)
    flat = F.conv2d(
        F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernels.transpose(2, 3), groups=batch * channels
    )
    return flat.reshape(images.shape)
