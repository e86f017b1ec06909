"""The micro VLM's classes with random weights, as a folder that transformers and vLLM load."""

from functools import cache
from pathlib import Path

from microworld.training.vlm_data import sample_texts
from microworld.training.vlm_model import VlmShape, build_processor, build_tokenizer, build_vlm, save_vlm

TINY_SHAPE = VlmShape(
    vision_layers=2,
    vision_width=32,
    vision_heads=2,
    vision_inner=48,
    layers=2,
    width=64,
    heads=2,
    kv_heads=1,
    inner=96,
)


@cache
def tiny_tokenizer():
    return build_tokenizer(sample_texts(0, 30))


def save_tiny_vlm(folder: Path, shape: VlmShape = TINY_SHAPE, seed: int = 0) -> Path:
    import torch

    torch.manual_seed(seed)
    save_vlm(build_vlm(tiny_tokenizer(), shape), build_processor(tiny_tokenizer()), folder)
    return folder
