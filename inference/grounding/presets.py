"""The two sets of weights that Grounded-SAM runs with: the shipped micro models, and the published ones."""

from __future__ import annotations

from inference.grounding.color import PixelColorConfig
from inference.grounding.detector import GroundingDinoConfig
from inference.grounding.grounded_sam import GroundedSamConfig
from inference.grounding.segmenter import SamConfig
from microworld.scenes.world import COLORS


def micro_grounded_sam(device: str = "cpu") -> GroundedSamConfig:
    """The models that `python -m trainers micro` trains. Thresholds: a sweep on held-out scenes
    through the VAE (`microworld.training.grounding_evaluation`) is flat from .25 to .4; on generated images, looked at
    one by one, .25 misses the fewest real objects, which counting needs most, and accepts some more malformed
    shapes."""
    return GroundedSamConfig(
        GroundingDinoConfig(
            model="micro/grounding_dino",
            box_threshold=0.25,
            text_threshold=0.25,
            nms_iou=0.5,
            batch_size=32,
            text_length=20,
            device=device,
        ),
        SamConfig(model="micro/sam", image_batch=32, box_batch=64, device=device),
        PixelColorConfig(palette=tuple((name, rgb) for name, rgb in COLORS.items())),
    )


def published_grounded_sam(device: str = "cuda") -> GroundedSamConfig:
    """GroundingDINO Swin-B and SAM ViT-H, with the thresholds of their demos."""
    return GroundedSamConfig(GroundingDinoConfig(device=device, batch_size=4), SamConfig(device=device, image_batch=4))
