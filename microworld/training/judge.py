"""Train the judge: a dense segmenter of shapes, then a classifier of colours, from rendered scenes alone.

Why dense: a judge must be certain about every outline. A label for each of 1,024 pixels teaches outlines in a fraction
of the time that a set-prediction detector (one matched query an object) needs, and pixels that disagree within one
object are themselves the sign of a malformed one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.judges.segmentation_judge import COLOR_INPUT_PX, paste_on_grey
from inference.sound_weights import sound_weights
from microworld.scenes.world import FRAME_PX
from microworld.training.judge_data import (
    COLOR_LABELS,
    IGNORED,
    LABEL_NAMES,
    NO_SHAPE,
    UNDECIDED_COLOR,
    JudgeDataConfig,
    JudgeImages,
)
from microworld.training.judge_pool import JudgePool
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process
from microworld.training.vae_noise import VaeNoise
from microworld.training.vlm_images import folder_digest

if TYPE_CHECKING:
    import torch
    from transformers import ConvNextForImageClassification, UperNetForSemanticSegmentation


@dataclass(frozen=True)
class JudgeRecipe:
    """Sizes and hyperparameters."""

    input_px: int = 128
    detector_dims: tuple[int, ...] = (32, 64, 128)
    detector_depths: tuple[int, ...] = (1, 2, 2)
    head_dim: int = 32
    batch_size: int = 32
    learning_rate: float = 3e-3
    color_dims: tuple[int, ...] = (32, 64)
    color_depths: tuple[int, ...] = (1, 2)
    color_batch: int = 48  # images; about 2.3 objects each
    color_learning_rate: float = 2e-3
    color_share: float = 0.2  # of the minutes
    weight_decay: float = 0.02
    ema_decay: float = 0.998
    reuse: float = 4.0  # times an image of the pool is seen before the pool grows
    first_chunks: int = 1
    chunk_images: int = 1500
    num_evaluated: int = 600
    bf16: bool | None = None  # None: measure which is faster here
    data: JudgeDataConfig = field(default_factory=JudgeDataConfig)


def build_detector(recipe: JudgeRecipe) -> UperNetForSemanticSegmentation:
    """UPerNet on a small ResNet. Images are enlarged four times, so that its first stage (a quarter of the input) works
    at the image's own 32 x 32."""
    from torch import nn
    from transformers import ResNetConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ResNetConfig(
        embedding_size=recipe.detector_dims[0],
        hidden_sizes=list(recipe.detector_dims),
        depths=list(recipe.detector_depths),
        layer_type="basic",
        downsample_in_first_stage=False,
        out_features=[f"stage{i + 1}" for i in range(len(recipe.detector_dims))],  # pyright: ignore[reportCallIssue]
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=recipe.head_dim,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        id2label=dict(enumerate(LABEL_NAMES)),
        label2id={name: i for i, name in enumerate(LABEL_NAMES)},
    )
    model = UperNetForSemanticSegmentation(config)
    # Most of an image is background, and logits have to become large: both need a hundred steps from the usual start.
    classifier: Any = model.decode_head.classifier
    nn.init.normal_(classifier.weight, std=0.2)
    classifier.bias.data[0] = 2.0
    return model


def build_color_classifier(recipe: JudgeRecipe) -> ConvNextForImageClassification:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_stages=len(recipe.color_dims),
        patch_size=2,
        hidden_sizes=list(recipe.color_dims),
        depths=list(recipe.color_depths),
        layer_scale_init_value=0.1,
        image_size=COLOR_INPUT_PX,
        id2label=dict(enumerate(COLOR_LABELS)),
        label2id={name: i for i, name in enumerate(COLOR_LABELS)},
    )
    return ConvNextForImageClassification(config)


def build_processor(side_px: int) -> Any:
    """What both models' folders say about pixels: this size, [0, 255] to [-1, 1]."""
    from transformers import SegformerImageProcessor

    return SegformerImageProcessor(
        size={"height": side_px, "width": side_px}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_reduce_labels=False
    )


def to_pixel_values(images: np.ndarray, side_px: int) -> torch.Tensor:
    """What the processor makes of uint8 (B, H, W, 3): float32 (B, 3, side_px, side_px), channels last as the images."""
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    if side_px == images.shape[1]:
        return pixels
    return F.interpolate(pixels, (side_px, side_px), mode="bilinear", align_corners=False)


def class_logits(model: Any, pixels: torch.Tensor, side_px: int) -> torch.Tensor:
    """float32 (B, C, side_px, side_px): the logits at the images' own resolution, as the judge reads them."""
    from torch.nn import functional as F

    return F.interpolate(model(pixel_values=pixels).logits.float(), (side_px, side_px), mode="area")


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (B, C, H, W) against uint8 labels (B, H, W), background at half weight. `NO_SHAPE` pixels may be
    background or malformed, `IGNORED` ones anything."""
    import torch

    log_shares = logits.float().log_softmax(1)
    targets = labels.long()
    neither = torch.logaddexp(log_shares[:, 0], log_shares[:, -1])
    named = targets.clamp(max=logits.shape[1] - 1)
    value = torch.where(targets == NO_SHAPE, neither, log_shares.gather(1, named[:, None])[:, 0])
    weight = torch.where((targets == 0) | (targets == NO_SHAPE), 0.5, 1.0) * (targets != IGNORED)
    return -(value * weight).sum() / weight.sum().clamp(min=1)


def color_crops(rng: np.random.Generator, batch: JudgeImages) -> tuple[np.ndarray, np.ndarray]:
    """Objects on grey uint8 (n, 16, 16, 3) and their colour classes (n,); masks a pixel too large or small now and
    then, as a detector's are."""
    from scipy import ndimage

    crops, classes = [], []
    for image, instances, colors in zip(batch.images, batch.instances, batch.colors, strict=True):
        for k in np.flatnonzero(colors != UNDECIDED_COLOR):
            mask = instances == k + 1
            draw = rng.random()
            if draw < 0.25:
                mask = ndimage.binary_dilation(mask)
            elif draw < 0.5 and mask.sum() > 40:
                mask = ndimage.binary_erosion(mask)
            if mask.sum() >= 8:
                crops.append(paste_on_grey(image, mask))
                classes.append(int(colors[k]))
    shape = (-1, COLOR_INPUT_PX, COLOR_INPUT_PX, 3)
    return np.array(crops, np.uint8).reshape(shape), np.array(classes, np.int64)


def gpu_recipe() -> JudgeRecipe:
    """For one GPU and 3 minutes."""
    return JudgeRecipe(batch_size=128, learning_rate=4e-3, color_batch=192, reuse=8.0, bf16=True)


def train(config: MicroTrainingConfig, recipe: JudgeRecipe | None = None) -> None:
    """Detector, then colour classifier, for `config.minutes` together; resumes, exports, prints how good they are."""
    recipe = recipe or (JudgeRecipe() if config.device == "cpu" else gpu_recipe())
    degrade = VaeNoise(config.out_dir / "flux" / "vae", recipe.data.vae_share)
    prepare_process(config)
    folder = config.work_dir / f"judge_images-{folder_digest(config.out_dir / 'flux' / 'vae')}"
    pool = JudgePool(folder, config.seed, recipe.data, degrade, recipe.chunk_images, config.data_workers)
    color_minutes = config.minutes * recipe.color_share
    _train_detector(replace(config, minutes=config.minutes - color_minutes), recipe, pool)
    _train_color(replace(config, minutes=color_minutes), recipe, pool)
    if not config.evaluate:
        return
    from microworld.training.judge_evaluation import print_report

    print_report(config.out_dir, degrade, recipe.num_evaluated)


def _adamw(model: Any, rate: float, recipe: JudgeRecipe) -> list[tuple[torch.optim.Optimizer, float]]:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    return [(optimizer, rate)]


def _train_detector(config: MicroTrainingConfig, recipe: JudgeRecipe, pool: JudgePool) -> None:
    import torch
    from transformers import UperNetForSemanticSegmentation

    model: Any = build_detector(recipe)
    if config.from_exported:
        recipe = replace(recipe, learning_rate=recipe.learning_rate / 2)
        folder = config.out_dir / "judge" / "detector"
        trained = UperNetForSemanticSegmentation.from_pretrained(sound_weights(folder), dtype=torch.float32)
        model.load_state_dict(trained.state_dict())
    if config.device == "cpu":
        model.to(memory_format=torch.channels_last)  # convolutions of one step: three times faster
    model.to(torch.device(config.device))
    optimizers = _adamw(model, recipe.learning_rate, recipe)
    training = Training(config, "judge_detector", model, optimizers, ema_decay=recipe.ema_decay)
    clock, rng = training.clock, np.random.default_rng(training.seed(61))

    def forward(use_bf16: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = pool.draw(rng, recipe.batch_size)
        labels = torch.from_numpy(batch.labels).to(config.device)
        with autocast(config.device, use_bf16):
            logits = class_logits(model, to_pixel_values(batch.images, recipe.input_px).to(config.device), FRAME_PX)
        return segmentation_loss(logits, labels), logits, labels

    model.train()
    while clock.running() and len(pool) < recipe.first_chunks * recipe.chunk_images:
        pool.grow()
    use_bf16 = recipe.bf16
    if use_bf16 is None:
        use_bf16 = training.pick_bf16(lambda use_bf16: forward(use_bf16)[0], num_steps=4)
    clock.pause()
    while clock.running():
        if clock.num_samples > recipe.reuse * len(pool):
            pool.grow()  # counts as training time
        loss, logits, labels = forward(use_bf16)
        found, wanted = logits.detach().argmax(1), labels
        seen = (wanted > 0) & (wanted < NO_SHAPE)
        right = (found == wanted)[seen].float().mean().item() if seen.any() else 1.0
        training.step(loss, recipe.batch_size, {"loss": loss.item(), "object_pixels": right, "pool": len(pool)})
    training.checkpoint()
    with training.ema.applied(), _averaged_statistics(model, pool, rng, recipe, config.device):
        export_folder(lambda folder: save(model, recipe.input_px, folder), config.out_dir / "judge" / "detector")


@contextmanager
def _averaged_statistics(
    model: Any, pool: JudgePool, rng: np.random.Generator, recipe: JudgeRecipe, device: str
) -> Iterator[None]:
    """Inside, batch normalisation has the statistics of the averaged weights, measured anew."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    kept = [(copy.deepcopy(m.state_dict()), m.momentum) for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over what follows
    with torch.no_grad():
        for _ in range(20 if len(pool) else 0):
            images = pool.draw(rng, recipe.batch_size).images
            model.train()(pixel_values=to_pixel_values(images, recipe.input_px).to(device))
    model.eval()
    try:
        yield
    finally:
        for norm, (state, momentum) in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum


def _train_color(config: MicroTrainingConfig, recipe: JudgeRecipe, pool: JudgePool) -> None:
    import torch
    from torch.nn import functional as F

    model: Any = build_color_classifier(recipe).to(torch.device(config.device))  # pyright: ignore[reportArgumentType]
    optimizers = _adamw(model, recipe.color_learning_rate, recipe)
    training = Training(config, "judge_color", model, optimizers, ema_decay=recipe.ema_decay)
    clock, rng = training.clock, np.random.default_rng(training.seed(62))
    model.train()
    while clock.running():
        crops, classes = color_crops(rng, pool.draw(rng, recipe.color_batch))
        targets = torch.from_numpy(classes).to(config.device)
        pixels = to_pixel_values(crops, COLOR_INPUT_PX).to(config.device)
        logits = model(pixel_values=pixels).logits
        loss = F.cross_entropy(logits, targets, label_smoothing=0.02)
        right = (logits.detach().argmax(1) == targets).float().mean().item()
        training.step(loss, len(crops), {"loss": loss.item(), "right": right})
    training.checkpoint()
    with training.ema.applied():
        export_folder(lambda folder: save(model, COLOR_INPUT_PX, folder), config.out_dir / "judge" / "color")


def save(model: Any, side_px: int, folder: Path) -> None:
    """A transformers folder in bfloat16 (statistics of normalisation too), with its image processor."""
    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    build_processor(side_px).save_pretrained(folder)
