"""The differentiable preprocessing against the image processors of transformers, for sizes that are resized and not."""

import numpy as np
import pytest

from microworld.training.vlm_model import build_processor
from trainers.vlm_pixels import Idefics2Pixels, QwenPixels, resized

SIZES = [(32, 32), (32, 64), (24, 40), (16, 16), (75, 50)]
ROUNDINGS = 1.5 / 255  # the processor rounds to whole numbers after each of its two passes


def noise(height: int, width: int) -> np.ndarray:
    """Hard edges of all strengths: bicubic interpolation overshoots there."""
    rng = np.random.default_rng([height, width])
    small = rng.integers(0, 256, (2, height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return small.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def both(pixels, processor, images: np.ndarray):
    import torch

    size = pixels.size_of(*images.shape[1:3])
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    return pixels.model_inputs(resized(tensor, size, processor)), processor(images=list(images), return_tensors="pt")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_qwen_pixels_are_the_processors(size):
    from tests.support.tiny_vlm import tiny_tokenizer

    processor = build_processor(tiny_tokenizer()).image_processor
    ours, theirs = both(QwenPixels(processor), processor, noise(*size))
    assert ours["image_grid_thw"].equal(theirs["image_grid_thw"])
    difference = (ours["pixel_values"].double() - theirs["pixel_values"].double()).abs().max()
    assert difference < (1e-5 if size in SIZES[:2] else ROUNDINGS / processor.image_std[0])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_idefics2_pixels_are_the_processors(size):
    from transformers import Idefics2ImageProcessor

    processor = Idefics2ImageProcessor(size={"shortest_edge": 28, "longest_edge": 56})
    images = noise(*size)
    ours, theirs = both(Idefics2Pixels(processor), processor, images)
    mine, of_processor = ours["pixel_values"][:, 0], theirs["pixel_values"].flatten(0, 1)
    assert mine.shape == of_processor.shape
    assert float((mine - of_processor.double()).abs().max()) < ROUNDINGS / min(processor.image_std)
    assert ours["pixel_attention_mask"][:, 0].equal(theirs["pixel_attention_mask"].flatten(0, 1))
