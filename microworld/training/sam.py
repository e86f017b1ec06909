"""Train the micro SAM: segment-anything's own classes, under a million parameters, on rendered scenes.

Prompts are boxes, jittered as a detector's are; targets are the visible masks of the objects.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from inference.grounding.sam import SamArchitecture, build_sam, decode_boxes
from microworld.training.grounding_data import AugmentationConfig, GroundingBatch, make_batch
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, export_folder, prepare_process

MICRO_ARCHITECTURE = SamArchitecture(
    image_px=32,  # the world's own size: an 8 x 8 grid, and masks of 32 x 32
    patch_px=4,
    encoder_dim=96,
    encoder_depth=4,
    encoder_heads=4,
    global_attention=(0, 1, 2, 3),
    window=0,
    prompt_dim=64,
    decoder_mlp_dim=128,
    decoder_heads=4,
)


@dataclass(frozen=True)
class SamRecipe:
    """Hyperparameters."""

    batch_size: int = 32  # images; about 2.5 boxes each
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.99
    box_jitter: float = 0.08  # standard deviation of each side, as a share of the box's size
    max_jitter_px: float = 1.5
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


def jitter_boxes(rng: np.random.Generator, boxes: np.ndarray, recipe: SamRecipe, side_px: int) -> np.ndarray:
    """Boxes (n, 4) xyxy as an imperfect detector gives them (Segment Anything, appendix A: box prompts)."""
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = rng.standard_normal(boxes.shape) * recipe.box_jitter * size
    moved = boxes + np.clip(noise, -recipe.max_jitter_px, recipe.max_jitter_px)
    return np.clip(moved, 0, side_px).astype(np.float32)


def prepare(batch: GroundingBatch, boxes: list[np.ndarray], image_px: int):
    """Model inputs: images float (B, 3, image_px, image_px) in 0..255, the image index (n,) and box (n, 4) of each
    prompt, target masks (n, 1, image_px, image_px) in 0..1."""
    import torch
    from torch.nn import functional as F

    side = batch.images.shape[1]
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    images = F.interpolate(images, (image_px, image_px), mode="bilinear", align_corners=False)
    index = torch.tensor([i for i, found in enumerate(boxes) for _ in found])
    prompts = torch.from_numpy(np.concatenate(boxes)) * (image_px / side)
    masks = torch.from_numpy(np.concatenate(batch.masks)).float()[:, None]
    return images, index, prompts, F.interpolate(masks, (image_px, image_px), mode="bilinear", align_corners=False)


def mask_loss(logits, targets, predicted_iou):
    """Focal 20 : dice 1, plus the squared error of the predicted IoU (Segment Anything, appendix A). Of the three
    outputs for ambiguous prompts only the best one is trained; the single output always is."""
    import torch
    from torch.nn import functional as F

    targets = targets.expand_as(logits)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = probability * targets + (1 - probability) * (1 - targets)
    focal = (cross_entropy * (1 - right) ** 2).mean((-1, -2))
    overlap = (probability * targets).sum((-1, -2))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-1, -2)) + targets.sum((-1, -2)) + 1)
    each = 20 * focal + dice  # (n, outputs)
    with torch.no_grad():
        found, wanted = logits > 0, targets > 0.5
        iou = (found & wanted).sum((-1, -2)) / (found | wanted).sum((-1, -2)).clamp(min=1)
    loss = each[:, 0].mean() + each[:, 1:].min(1).values.mean() + F.mse_loss(predicted_iou, iou)
    return loss, iou[:, 0].mean()


def train(config: MicroTrainingConfig, recipe: SamRecipe = SamRecipe()) -> None:
    """Train for `config.minutes`, resume where a killed run stopped, write the model folder."""
    import torch

    prepare_process(config)
    sam = build_sam(MICRO_ARCHITECTURE).to(config.device)
    optimizer = torch.optim.AdamW(
        sam.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    training = Training(config, "sam", sam, [(optimizer, recipe.learning_rate)], ema_decay=recipe.ema_decay)
    rng = np.random.default_rng(training.seed(1))
    sam.train()
    while training.clock.running():
        batch = make_batch(rng, recipe.batch_size, recipe.augmentation)
        boxes = [jitter_boxes(rng, found, recipe, batch.images.shape[1]) for found in batch.boxes]
        inputs = [x.to(config.device) for x in prepare(batch, boxes, MICRO_ARCHITECTURE.image_px)]
        images, index, prompts, targets = inputs
        embeddings = sam.image_encoder(sam.preprocess(images))
        logits, predicted_iou = decode_boxes(sam, embeddings[index], prompts)
        loss, iou = mask_loss(logits, targets, predicted_iou)
        training.step(loss, recipe.batch_size, {"loss": loss.item(), "iou": iou.item()})
    training.checkpoint()
    with training.ema.applied():
        export_folder(lambda folder: save(sam, folder), config.out_dir / "sam")


def save(sam, folder: Path) -> None:
    """`config.json` with the architecture and `model.safetensors` with segment-anything's own names, bfloat16."""
    import torch
    from safetensors.torch import save_file

    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in sam.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(MICRO_ARCHITECTURE), indent=1) + "\n")


if __name__ == "__main__":
    train(MicroTrainingConfig(minutes=float(os.environ.get("MINUTES", "4")), num_threads=1))
