"""From triplets to what a corrector's training step takes: crops, drops, latents, text states, noise.

All that is random about sample n comes from a generator seeded by (seed, n), so a training that was killed goes on with
the same numbers, on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.flux.corrector import MIN_REFLECTION_CHARS, corrector_text
from inference.flux.latents import Posterior, encode_images, tokens_a_side
from schemas.configuration import stable_seed
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
    """Height and width of the images that it learns to draw."""
    condition_px: int = 512
    """Height and width of the flawed image as the transformer sees it."""
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


@dataclass(frozen=True)
class PreparedSample:
    """One sample before any model: images uint8 (size_px, size_px, 3), the flawed one as it will be shown."""

    number: int
    good: np.ndarray
    bad: np.ndarray
    text: str
    clip_text: str
    subset: str
    reflection_used: bool
    image_used: bool


def prepare(triplet: Triplet, config: BatchConfig, seed: int) -> PreparedSample:
    """Crop, resize and drop. Both images: short edge to `size_px`, one shared random crop."""
    rng = np.random.default_rng([seed, 71, triplet.number])
    draws = rng.random(3)
    good, bad = shaped(triplet.good, triplet.bad, config.size_px, lambda room: int(rng.integers(room + 1)))
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


def shaped(
    good: np.ndarray, bad: np.ndarray, size_px: int, place: Callable[[int], int]
) -> tuple[np.ndarray, np.ndarray]:
    """Both images uint8 (size_px, size_px, 3): the flawed one brought to the other's size, then both to a short edge of
    `size_px`, then cropped alike. place: how many px from the upper or left edge, of as many as there is room."""
    bad = _resize(bad, good.shape[0], good.shape[1])
    good, bad = (_short_edge(image, size_px) for image in (good, bad))
    top, left = (place(side - size_px) for side in good.shape[:2])
    good, bad = (image[top : top + size_px, left : left + size_px] for image in (good, bad))
    return np.ascontiguousarray(good), np.ascontiguousarray(bad)


def cells_that_differ(good: np.ndarray, bad: np.ndarray, side: int) -> np.ndarray:
    """bool (side * side,): the tokens under which the images uint8 (H, W, 3) differ by more than 8 of 255."""
    apart = np.abs(good.astype(np.float32) - bad).mean(2)
    cell = apart.shape[0] // side
    return apart[: side * cell, : side * cell].reshape(side, cell, side, cell).mean((1, 3)).flatten() > 8


_BY_SAMPLE = ("x0", "noise", "t", "prompt_embeds", "pooled", "condition", "weight")


@dataclass
class TrainingBatch:
    """Tensors of samples whose texts have one padded length: x0 and noise (B, N, channels) packed, t (B,), and the
    loss's weight (B, N, 1), mean 1."""

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
        self._generator, self._config, self._condition, self._seed = generator, config, condition, seed

    def __call__(self, triplets: Sequence[Triplet]) -> list[TrainingBatch]:
        """One batch for each text length that occurs, in the order of the lengths."""
        samples = [prepare(triplet, self._config, self._seed) for triplet in triplets]
        by_length: dict[int, list[PreparedSample]] = {}
        for sample in samples:
            by_length.setdefault(self._generator.text_length(sample.text), []).append(sample)
        return [self._tensors(some, length) for length, some in sorted(by_length.items())]

    def _tensors(self, samples: list[PreparedSample], length: int) -> TrainingBatch:
        import torch

        from inference.flux.conditioning import place_condition

        pipeline, config = self._generator.pipeline, self._config
        with torch.no_grad():
            x0 = self._encode([s.good for s in samples], config.size_px, samples, "good")
            condition = self._encode([s.bad for s in samples], config.condition_px, samples, "bad")
            texts = [self._generator.encode_text(s.text, length, clip_text=s.clip_text) for s in samples]
        draws = [noise_of(self._seed, s.number, x0.shape[1:]) for s in samples]
        t = times_of(torch.tensor([draw for draw, _ in draws]), config)
        side, shown = (tokens_a_side(pipeline, size_px) for size_px in (config.size_px, config.condition_px))
        image_ids = pipeline._prepare_latent_image_ids(1, side, side, x0.device, x0.dtype)
        return TrainingBatch(
            [s.number for s in samples],
            [s.subset for s in samples],
            x0,
            torch.stack([noise for _, noise in draws]).to(x0),
            t.to(x0),
            torch.cat([embeds for embeds, _ in texts]),
            torch.cat([pooled for _, pooled in texts]),
            condition,
            place_condition(self._condition, shown, side).to(condition),
            image_ids,
            self._weight(samples, x0),
        )

    def _encode(self, images: Sequence[np.ndarray], size_px: int, samples: list[PreparedSample], which: str) -> Any:
        seeds = [stable_seed(self._seed, which, sample.number) for sample in samples]
        return encode_images(self._generator.pipeline, images, size_px, self._config.latents, seeds)

    def _weight(self, samples: list[PreparedSample], x0: torch.Tensor) -> torch.Tensor:
        """More where good and bad differ, by token; mean 1 over each sample."""
        import torch

        weight = torch.ones(len(samples), x0.shape[1], 1, device=x0.device)
        if self._config.difference_weight:
            side = int(x0.shape[1] ** 0.5)
            for i, sample in enumerate(samples):
                if not sample.image_used:
                    continue
                differs = torch.from_numpy(cells_that_differ(sample.good, sample.bad, side)).to(x0)
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


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _short_edge(image: np.ndarray, size_px: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = size_px / min(height, width)
    return _resize(image, max(size_px, round(height * scale)), max(size_px, round(width * scale)))
