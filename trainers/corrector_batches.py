"""From triplets to what a corrector's training step takes: crops, drops, latents, text states, noise.

All that is random about sample n comes from a generator seeded by (seed, n), so a training that was killed goes on with
the same numbers, on any number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.flux.corrector import MIN_REFLECTION_CHARS, corrector_text
from inference.flux.latents import (
    Posterior,
    check_drawable,
    condition_size,
    encode_images,
    resized,
    token_grid,
    token_px,
)
from schemas.configuration import stable_seed
from schemas.image_size import ImageSize
from trainers.shard_dataset import Triplet

if TYPE_CHECKING:
    import torch

    from inference.flux.condition_config import ConditionConfig
    from inference.flux.generator import FluxGenerator


@dataclass(frozen=True)
class DropConfig:
    """Shares of the samples (ReflectionFlow §3.3; the published training's values)."""

    text: float = 0.1
    """T5's input is empty; CLIP's is not."""
    image: float = 0.1
    """The flawed image is black and there is no reflection; never for `editing`."""
    reflection: float = 0.2
    """The reflection is left out; the flawed image stays."""


@dataclass(frozen=True)
class BatchConfig:
    """How samples are made."""

    size_px: int = 1024
    """Height and width of the images that it learns to draw, where no sizes are named."""
    condition_px: int = 512
    """Height and width of the flawed image as the transformer sees it; one that is not square has its own aspect and
    about as many tokens."""
    drop: DropConfig = field(default_factory=DropConfig)
    time_shift: float = 0.0
    """t = sigmoid(time_shift + N(0, 1))"""
    start_share: float = 0.0
    """Share of the samples at t = 1, where sampling starts and the noise tells nothing of the image (beyond the paper:
    few-step samplers decide there what goes where, and the logit-normal hardly ever comes near)."""
    difference_weight: float = 0.0
    """How much more the loss counts where the two images differ (0: not; beyond the paper)."""
    latents: Posterior = "mode"
    """What of the VAE's posterior both images are: its mode, or a sample, as in the published training."""
    sizes: tuple[str, ...] = ()
    """Sizes that it learns to draw, such as 1024x1024 1152x896 896x1152: each triplet is cropped to the one whose
    aspect is nearest to its good image's; none: all to one square of `size_px`."""

    def __post_init__(self) -> None:
        _ = self.buckets  # said now, not at the first sample

    @property
    def buckets(self) -> tuple[ImageSize, ...]:
        """The sizes that images are cropped to. InputError for what is no size."""
        named = tuple(ImageSize.parse(text, "batch.sizes") for text in self.sizes)
        return tuple(dict.fromkeys(named)) or (ImageSize.square(self.size_px),)

    def check(self, step_px: int) -> None:
        """InputError for sizes that are no whole number of tokens of `step_px`."""
        check_drawable(self.buckets, step_px, "batch.sizes" if self.sizes else "batch.size_px")
        check_drawable([ImageSize.square(self.condition_px)], step_px, "batch.condition_px")


@dataclass(frozen=True)
class PreparedSample:
    """One sample before any model: images uint8 (H, W, 3) of one size, the flawed one as it will be shown."""

    number: int
    good: np.ndarray
    bad: np.ndarray
    text: str
    clip_text: str
    subset: str
    reflection_used: bool
    image_used: bool


def prepare(triplet: Triplet, config: BatchConfig, seed: int) -> PreparedSample:
    """Crop, resize and drop. Both images: made to cover the size that is nearest in aspect, one shared random crop."""
    rng = np.random.default_rng([seed, 71, triplet.number])
    draws = rng.random(3)
    size = bucket_of(triplet.good, config.buckets)
    good, bad = shaped(triplet.good, triplet.bad, size, lambda room: int(rng.integers(room + 1)))
    image_used = triplet.subset == "editing" or draws[1] >= config.drop.image
    reflection_used = (
        image_used and draws[2] >= config.drop.reflection and len(triplet.reflection.strip()) >= MIN_REFLECTION_CHARS
    )
    if not image_used:
        bad = np.zeros_like(bad)
    text = corrector_text(triplet.prompt, triplet.reflection if reflection_used else "")
    return PreparedSample(
        triplet.number,
        good,
        bad,
        "" if draws[0] < config.drop.text else text,
        triplet.prompt,
        triplet.subset,
        reflection_used,
        image_used,
    )


def bucket_of(image: np.ndarray, buckets: Sequence[ImageSize]) -> ImageSize:
    """The size whose aspect is nearest to an image's (H, W, 3), by the ratio of the two; of equal ones the first."""
    aspect = image.shape[1] / image.shape[0]
    return min(buckets, key=lambda size: abs(math.log(size.width / size.height / aspect)))


def shaped(
    good: np.ndarray, bad: np.ndarray, size: ImageSize, place: Callable[[int], int]
) -> tuple[np.ndarray, np.ndarray]:
    """Both images uint8 (H, W, 3) of `size`: the flawed one brought to the other's size, then both made to just cover
    `size`, then cropped alike. place: how many px from the upper or left edge, of as many as there is room."""
    bad = resized(bad, ImageSize.of(good))
    good, bad = (_covering(image, size) for image in (good, bad))
    top, left = (place(there - wanted) for there, wanted in zip(good.shape, (size.height, size.width), strict=False))
    good, bad = (image[top : top + size.height, left : left + size.width] for image in (good, bad))
    return np.ascontiguousarray(good), np.ascontiguousarray(bad)


def cells_that_differ(good: np.ndarray, bad: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """bool (rows * columns,): the tokens under which the images uint8 (H, W, 3) differ by more than 8 of 255."""
    rows, columns = grid
    apart = np.abs(good.astype(np.float32) - bad).mean(2)
    cell = apart.shape[0] // rows
    apart = apart[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell)
    return apart.mean((1, 3)).flatten() > 8


_BY_SAMPLE = ("x0", "noise", "t", "prompt_embeds", "pooled", "condition", "weight")


@dataclass
class TrainingBatch:
    """Tensors of samples of one size whose texts have one padded length: x0 and noise (B, N, channels) packed, t (B,),
    and the loss's weight (B, N, 1), mean 1."""

    numbers: list[int]
    subsets: list[str]
    x0: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    prompt_embeds: torch.Tensor
    pooled: torch.Tensor
    condition: torch.Tensor
    condition_ids: torch.Tensor
    image_ids: torch.Tensor
    weight: torch.Tensor

    def in_parts_of(self, rows: int) -> list[TrainingBatch]:
        """Batches whose tensors have exactly so many rows, the last one's filled up with its own (`numbers` counts the
        real ones); 0: the batch itself."""
        if not rows:
            return [self]
        parts = []
        for start in range(0, len(self.numbers), rows):
            chosen = [start + min(i, len(self.numbers) - start - 1) for i in range(rows)]
            tensors = {name: getattr(self, name)[chosen] for name in _BY_SAMPLE}
            stop = start + rows
            parts.append(replace(self, numbers=self.numbers[start:stop], subsets=self.subsets[start:stop], **tensors))
        return parts


class BatchMaker:
    """Holds the frozen VAE and text encoders."""

    def __init__(self, generator: FluxGenerator, config: BatchConfig, condition: ConditionConfig, seed: int) -> None:
        """InputError for sizes that the generator cannot draw."""
        self._generator, self._config, self._condition, self._seed = generator, config, condition, seed
        config.check(token_px(generator.pipeline))

    def __call__(self, triplets: Sequence[Triplet]) -> list[TrainingBatch]:
        """One batch for each text length and size that occurs, in the order of the lengths, then of the sizes."""
        samples = [prepare(triplet, self._config, self._seed) for triplet in triplets]
        buckets = self._config.buckets
        by_shape: dict[tuple[int, int], list[PreparedSample]] = {}
        for sample in samples:
            shape = (self._generator.text_length(sample.text), buckets.index(ImageSize.of(sample.good)))
            by_shape.setdefault(shape, []).append(sample)
        return [self._tensors(some, length, buckets[n]) for (length, n), some in sorted(by_shape.items())]

    def _tensors(self, samples: list[PreparedSample], length: int, size: ImageSize) -> TrainingBatch:
        import torch

        from inference.flux.conditioning import place_condition

        pipeline, config = self._generator.pipeline, self._config
        shown = condition_size(size, config.condition_px, token_px(pipeline))
        with torch.no_grad():
            x0 = self._encode([s.good for s in samples], size, samples, "good")
            condition = self._encode([s.bad for s in samples], shown, samples, "bad")
            texts = [self._generator.encode_text(s.text, length, clip_text=s.clip_text) for s in samples]
        draws = [noise_of(self._seed, s.number, x0.shape[1:]) for s in samples]
        t = times_of(torch.tensor([draw for draw, _ in draws]), config)
        drawn_grid, shown_grid = (token_grid(pipeline, one) for one in (size, shown))
        image_ids = pipeline._prepare_latent_image_ids(1, *drawn_grid, x0.device, x0.dtype)
        return TrainingBatch(
            [s.number for s in samples],
            [s.subset for s in samples],
            x0,
            torch.stack([noise for _, noise in draws]).to(x0),
            t.to(x0),
            torch.cat([embeds for embeds, _ in texts]),
            torch.cat([pooled for _, pooled in texts]),
            condition,
            place_condition(self._condition, shown_grid, drawn_grid).to(condition),
            image_ids,
            self._weight(samples, x0, drawn_grid),
        )

    def _encode(self, images: Sequence[np.ndarray], size: ImageSize, samples: list[PreparedSample], which: str) -> Any:
        seeds = [stable_seed(self._seed, which, sample.number) for sample in samples]
        return encode_images(self._generator.pipeline, images, size, self._config.latents, seeds)

    def _weight(self, samples: list[PreparedSample], x0: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """More where good and bad differ, by token; mean 1 over each sample."""
        import torch

        weight = torch.ones(len(samples), x0.shape[1], 1, device=x0.device)
        if self._config.difference_weight:
            for i, sample in enumerate(samples):
                if not sample.image_used:
                    continue
                differs = torch.from_numpy(cells_that_differ(sample.good, sample.bad, grid)).to(x0)
                weight[i, :, 0] += self._config.difference_weight * differs
            weight = weight / weight.mean(1, keepdim=True)
        return weight


def times_of(draws: torch.Tensor, config: BatchConfig) -> torch.Tensor:
    """Times t in (0, 1] of standard normal draws, float of any shape: the upper `start_share` of them is t = 1."""
    import torch

    if not config.start_share:
        return (config.time_shift + draws).sigmoid()
    rank = torch.special.ndtr(draws.double()) / (1 - config.start_share)
    within = torch.special.ndtri(rank.clamp(1e-6, 1 - 1e-6)).to(draws.dtype)
    return torch.where(rank >= 1, 1.0, (config.time_shift + within).sigmoid())


def noise_of(seed: int, number: int, shape: Sequence[int]) -> tuple[float, torch.Tensor]:
    """What `times_of` makes t of, and Gaussian noise, of sample n."""
    import torch

    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    return float(torch.randn((), generator=generator)), torch.randn(*shape, generator=generator)


def _covering(image: np.ndarray, size: ImageSize) -> np.ndarray:
    """At the smallest scale at which nothing of `size` stays uncovered."""
    height, width = image.shape[:2]
    scale = max(size.width / width, size.height / height)
    return resized(image, ImageSize(max(size.width, round(width * scale)), max(size.height, round(height * scale))))
