"""What VLMs do to an image before they look, as functions with a gradient.

The image processors of transformers take uint8 images; here the same resizing, scaling and cutting into patches is
done to float tensors, so that a VLM's answer can be sent back to the pixels. `tests/trainers/test_vlm_pixels.py`
compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class VlmPixels(Protocol):
    """The image preprocessing of one kind of VLM."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the VLM looks at an image of this size."""
        ...

    def model_inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """images (B, 3, h, w) in [0, 1], of a size that `size_of` gave -> the model's image inputs, one image a row."""
        ...


class QwenPixels:
    """Qwen2.5-VL's and Qwen3-VL's: sides are multiples of a merged patch; pixels come as flat patches."""

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """See `VlmPixels`. InputError for a picture more than 200 times as long as it is wide."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        processor = self._processor
        return smart_resize(
            height,
            width,
            processor.patch_size * processor.merge_size,
            processor.size["shortest_edge"],
            processor.size["longest_edge"],
        )

    def model_inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """pixel_values (B * P, patch), image_grid_thw (B, 3)."""
        import torch

        processor = self._processor
        patches, rows, columns = processor.patchify(
            normalized(images, processor),
            patch_size=processor.patch_size,
            merge_size=processor.merge_size,
            temporal_patch_size=processor.temporal_patch_size,
        )
        grid = torch.tensor([[1, rows, columns]] * len(images), device=images.device)
        return {"pixel_values": patches.flatten(0, 1), "image_grid_thw": grid}


class Idefics2Pixels:
    """Idefics2's, without its splitting of an image into four: sides between two bounds, the proportions kept."""

    def __init__(self, image_processor: Any) -> None:
        self._processor = image_processor

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """See `VlmPixels`."""
        import torch
        from transformers.image_utils import SizeDict
        from transformers.models.idefics2.image_processing_idefics2 import get_resize_output_image_size

        size = self._processor.size
        bounds = SizeDict(shortest_edge=size["shortest_edge"], longest_edge=size["longest_edge"])
        return get_resize_output_image_size(torch.empty(3, height, width, device="meta"), bounds)

    def model_inputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """pixel_values (B, 1, 3, h, w), pixel_attention_mask (B, 1, h, w): every pixel is one of the image."""
        import torch

        mask = torch.ones(len(images), 1, *images.shape[-2:], dtype=torch.int64, device=images.device)
        return {"pixel_values": normalized(images, self._processor)[:, None], "pixel_attention_mask": mask}


def resized(images: torch.Tensor, size: tuple[int, int], image_processor: Any, clamps: bool = True) -> torch.Tensor:
    """images (B, 3, H, W) in [0, 1] -> (B, 3, *size), as the image processor resizes, up to its rounding. clamps:
    whether values beyond [0, 1] are cut off, as those of uint8 images are."""
    from PIL.Image import Resampling
    from torch.nn import functional as F

    if tuple(images.shape[-2:]) == tuple(size):
        return images
    mode = {Resampling.BICUBIC: "bicubic", Resampling.BILINEAR: "bilinear"}[Resampling(image_processor.resample)]
    # First along rows, then along columns, with no value out of range in between, as uint8 images are resized.
    wide = F.interpolate(images, (images.shape[-2], size[1]), mode=mode, antialias=True)
    wide = wide.clamp(0, 1) if clamps else wide
    tall = F.interpolate(wide, size, mode=mode, antialias=True)
    return tall.clamp(0, 1) if clamps else tall


def stretched(images: torch.Tensor) -> torch.Tensor:
    """images (B, 3, h, w) -> each one's smallest value 0 and its largest 1, with a gradient through both."""
    low, high = images.amin((1, 2, 3), True), images.amax((1, 2, 3), True)
    return (images - low) / (high - low).clamp(min=1e-6)


def normalized(images: torch.Tensor, image_processor: Any) -> torch.Tensor:
    """images (B, 3, h, w) in [0, 1], by the processor's mean and standard deviation of each channel."""
    import torch

    mean, std = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (image_processor.image_mean, image_processor.image_std)
    )
    return (images - mean) / std
