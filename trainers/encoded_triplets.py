"""All triplets encoded once: latents of both images and text states, kept where the training can index them.

A training then runs neither VAE nor text encoders, and decodes no image: a batch is a few lookups. What is encoded is
written shard by shard to a cache folder, so that the next start, another seed or another mix of subsets reads it.

Sample n is what it is without the cache (same triplet, drops, time and noise), with two exceptions: of images that are
not square the middle is taken, not a random crop; and latents and text states are rounded to `dtype`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from inference.flux.corrector import corrector_text
from inference.model_store import model_digest
from schemas.errors import CorruptDataError, WorkFailedError
from schemas.images import decode_image
from schemas.shards import ShardSample
from trainers.corrector_batches import BatchConfig, TrainingBatch, cells_that_differ, noise_of, shaped
from trainers.shard_dataset import REPLACEMENTS, TrainingOrder
from trainers.shard_index import SUBSETS, ShardIndex, read_shard

if TYPE_CHECKING:
    import torch

    from inference.flux.generator import FluxGenerator

log = logging.getLogger(__name__)
T = TypeVar("T")

_VERSION = 1


@dataclass(frozen=True)
class EncodingConfig:
    """Encoding all triplets before the first step."""

    ahead: bool = False
    """Encode everything first and train from that: no VAE, text encoder or image file in a step."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of what is kept."""
    keep_on: Literal["device", "memory"] = "device"
    """Where it is kept: beside the model, or in main memory."""
    batch_size: int = 256
    """Images, or texts, an encoder's forward pass."""
    threads: int = 4
    """Decode images."""
    fast_noise: bool = False
    """Times, noises and drops are drawn for a whole step at once, on the device, from (seed, step): other numbers than
    without, the same after a restart and on any number of workers, but not the same on CPU and GPU."""
    cache: Path | None = None
    """Folder of what was encoded; default: `out/cache`."""


@dataclass
class EncodedShard:
    """What one shard holds, row by row of its index. good (n, N, c), bad (n, M, c), differs uint8 (n, N);
    lengths and texts int (n, 2): for the prompt, and prompt and reflection, the padded length and the row among
    `states[length]` (u, length, d); pooled (n, d) of the prompt; broken uint8 (n,)."""

    good: torch.Tensor
    bad: torch.Tensor
    differs: torch.Tensor
    lengths: torch.Tensor
    texts: torch.Tensor
    pooled: torch.Tensor
    broken: torch.Tensor
    states: dict[int, torch.Tensor]

    def save(self, path: Path) -> None:
        """One safetensors file, there or not."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value for name, value in vars(self).items() if name != "states"}
        tensors |= {f"states.{length}": value for length, value in self.states.items()}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> EncodedShard:
        """What `save` wrote."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        names = [name for name in tensors if name.startswith("states.")]
        states = {int(name.removeprefix("states.")): tensors.pop(name) for name in names}
        return cls(**tensors, states=dict(sorted(states.items())))


@dataclass(frozen=True)
class _Pair:
    """Both images as they will be shown, uint8 (size_px, size_px, 3); black ones for a triplet that does not read."""

    good: np.ndarray
    bad: np.ndarray
    prompt: str
    reflection: str
    is_broken: bool = False


class ShardEncoder:
    """Runs the frozen VAE and text encoders over whole shards."""

    def __init__(self, generator: FluxGenerator, batch: BatchConfig, config: EncodingConfig, cache: Path) -> None:
        self._generator, self._batch, self._config, self._cache = generator, batch, config, cache

    def shard(self, index: ShardIndex, number: int) -> EncodedShard:
        """One shard's triplets in the order of the index, from the cache where they are there."""
        path = self._cache / f"encoded_{self._key(index, number)}.safetensors"
        if path.exists():
            return EncodedShard.load(path)
        encoded = self._encode(index, number)
        encoded.save(path)
        return EncodedShard.load(path)

    def _key(self, index: ShardIndex, number: int) -> str:
        rows = index.shard == number
        drawn, sizes = self._generator.config, (self._batch.size_px, self._batch.condition_px)
        how = (_VERSION, sizes, self._config.dtype, drawn.text_lengths, drawn.dtype)
        digest = hashlib.sha256(repr((index.uri, index.shards[number], how)).encode())
        digest.update(model_digest(self._generator.config.model).encode())
        digest.update(index.start[rows].tobytes() + index.stop[rows].tobytes())
        return digest.hexdigest()[:16]

    def _encode(self, index: ShardIndex, number: int) -> EncodedShard:
        import torch

        batch, pipeline = self._batch, self._generator.pipeline
        side = batch.size_px // (2 * pipeline.vae_scale_factor)
        good, bad, differs, prompts, told, broken = [], [], [], [], [], []
        with ThreadPoolExecutor(self._config.threads) as pool:
            for samples in _chunks(read_shard(index, number), self._config.batch_size):
                pairs = list(pool.map(self._pair, samples))
                good.append(self.latents([pair.good for pair in pairs], batch.size_px))
                bad.append(self.latents([pair.bad for pair in pairs], batch.condition_px))
                differs += [cells_that_differ(pair.good, pair.bad, side) for pair in pairs]
                prompts += [pair.prompt for pair in pairs]
                told += [corrector_text(pair.prompt, pair.reflection) for pair in pairs]
                broken += [pair.is_broken for pair in pairs]
        lengths, texts, states = self._states(prompts, told)
        return EncodedShard(
            good=torch.cat(good),
            bad=torch.cat(bad),
            differs=torch.from_numpy(np.array(differs, np.uint8)),
            lengths=torch.from_numpy(lengths),
            texts=torch.from_numpy(texts),
            pooled=self._pooled(prompts),
            broken=torch.tensor(broken, dtype=torch.uint8),
            states=states,
        )

    def _pair(self, sample: ShardSample | CorruptDataError) -> _Pair:
        try:
            if isinstance(sample, CorruptDataError):
                raise sample
            good = decode_image(sample.good_image, f"{sample.key}.good_image")
            bad = decode_image(sample.bad_image, f"{sample.key}.bad_image")
        except CorruptDataError as error:
            log.warning("sample skipped: %s", error)
            black = np.zeros((self._batch.size_px, self._batch.size_px, 3), np.uint8)
            return _Pair(black, black, "", "", is_broken=True)
        good, bad = shaped(good, bad, self._batch.size_px, lambda room: room // 2)
        return _Pair(good, bad, sample.prompt, sample.reflection)

    def latents(self, images: Sequence[np.ndarray], size_px: int) -> torch.Tensor:
        """(n, tokens, channels) of the configured dtype, on the CPU."""
        import torch

        from inference.flux.corrector import encode_condition

        def encode(some: Sequence[np.ndarray]) -> torch.Tensor:
            return encode_condition(self._generator.pipeline, some, size_px)[0]

        with torch.no_grad():
            return self._in_batches(encode, images)

    def _states(
        self, prompts: Sequence[str], told: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, dict[int, torch.Tensor]]:
        """Lengths and rows int (n, 2), and each distinct text's T5 states once, by padded length."""
        by_length: dict[int, dict[str, int]] = {}
        place: dict[str, tuple[int, int]] = {}
        for text in dict.fromkeys([*prompts, *told]):
            length = self._generator.text_length(text)
            rows = by_length.setdefault(length, {})
            place[text] = (length, rows.setdefault(text, len(rows)))
        found = np.array([[place[p], place[t]] for p, t in zip(prompts, told, strict=True)], np.int32).reshape(-1, 2, 2)
        states = {length: self.text_states(list(rows), length) for length, rows in sorted(by_length.items())}
        return found[:, :, 0].copy(), found[:, :, 1].copy(), states

    def text_states(self, texts: Sequence[str], length: int) -> torch.Tensor:
        """T5 states (n, length, d)."""
        pipeline = self._generator.pipeline
        return self._in_batches(
            lambda some: pipeline._get_t5_prompt_embeds(prompt=list(some), max_sequence_length=length), texts
        )

    def _pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """CLIP's vectors (n, d)."""
        pipeline, distinct = self._generator.pipeline, list(dict.fromkeys(prompts))
        vectors = self._in_batches(lambda some: pipeline._get_clip_prompt_embeds(prompt=list(some)), distinct)
        rows = {prompt: row for row, prompt in enumerate(distinct)}
        return vectors[[rows[prompt] for prompt in prompts]]

    def _in_batches(self, encode: Callable[[Sequence[Any]], torch.Tensor], items: Sequence[Any]) -> torch.Tensor:
        import torch

        dtype, size = getattr(torch, self._config.dtype), self._config.batch_size
        with torch.no_grad():
            parts = [encode(items[i : i + size]).to("cpu", dtype) for i in range(0, len(items), size)]
        return torch.cat(parts)


class EncodedTriplets:
    """Every training sample by its number, as tensors on the device. See `trainers.loop.SampleSource`."""

    def __init__(
        self,
        everything: ShardIndex,
        order: TrainingOrder,
        generator: FluxGenerator,
        batch: BatchConfig,
        config: EncodingConfig,
        seed: int,
        batch_size: int,
        cache: Path,
    ) -> None:
        """Encodes what is not in the cache. everything: the index of which `order` has the training part."""
        self.order, self.num_broken = order, 0
        self._generator, self._batch, self._config = generator, batch, config
        self._seed, self._batch_size = seed, batch_size
        encoder = ShardEncoder(generator, batch, config, config.cache or cache)
        there = np.unique(everything.shard).tolist()
        self._load([encoder.shard(everything, number) for number in there], order.index, everything)
        pipeline = generator.pipeline
        self._black = self._kept(encoder.latents([np.zeros((8, 8, 3), np.uint8)], batch.condition_px))
        self._empty_length = generator.text_length("")
        empty = self._kept(encoder.text_states([""], self._empty_length))
        known = self._states.get(self._empty_length)
        self._empty_row = 0 if known is None else len(known)
        self._states[self._empty_length] = empty if known is None else _cat([known, empty])
        side = batch.size_px // (2 * pipeline.vae_scale_factor)
        self._dtype, self._device = pipeline.transformer.dtype, pipeline.transformer.device
        self._image_ids = pipeline._prepare_latent_image_ids(1, side, side, self._device, self._dtype)
        self._condition_ids = self._ids_of_condition()
        self._drawn: tuple[int, np.ndarray, torch.Tensor, torch.Tensor] | None = None

    def _load(self, shards: Sequence[EncodedShard], training: ShardIndex, everything: ShardIndex) -> None:
        """Tables of the training index's rows, and of all texts."""
        # Rows of everything lie shard by shard, in the order in which the shards were encoded.
        chosen = np.searchsorted(_places(everything), _places(training))
        self._good, self._bad, self._differs, self._pooled = (
            self._kept(_cat([getattr(s, name) for s in shards])[chosen])
            for name in ("good", "bad", "differs", "pooled")
        )
        lengths = np.concatenate([s.lengths.numpy() for s in shards])
        texts = np.concatenate([s.texts.numpy() for s in shards]).astype(np.int64)
        first = dict.fromkeys({length for s in shards for length in s.states}, 0)
        row = 0
        for shard in shards:
            mine = slice(row, row + len(shard.lengths))
            texts[mine] += np.vectorize(first.__getitem__, otypes=[np.int64])(lengths[mine])
            row += len(shard.lengths)
            for length, states in shard.states.items():
                first[length] += len(states)
        self._states = {
            length: self._kept(_cat([s.states[length] for s in shards if length in s.states])) for length in first
        }
        self._lengths, self._texts = lengths[chosen], texts[chosen]
        self._broken = np.concatenate([s.broken.numpy() for s in shards])[chosen].astype(bool)
        self._is_editing = training.subset == SUBSETS.index("editing")
        self._has_reflection = (self._lengths[:, 0] != self._lengths[:, 1]) | (self._texts[:, 0] != self._texts[:, 1])

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        device = self._generator.pipeline.transformer.device
        if self._config.keep_on == "device" or device.type == "cpu":
            return values.to(device)
        return values.pin_memory()

    def _ids_of_condition(self) -> torch.Tensor:
        from inference.flux.conditioning import condition_ids

        factor = 2 * self._generator.pipeline.vae_scale_factor
        side = self._batch.condition_px // factor
        return condition_ids(side, side, shift=side).to(self._device, self._dtype)

    @property
    def num_bytes(self) -> int:
        """Of all that is kept."""
        tensors = [self._good, self._bad, self._differs, self._pooled, *self._states.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def batches(self, first: int, stop: int, batch_size: int, rank: int, world_size: int) -> Iterator[Sequence[int]]:
        """One rank's sample numbers of the steps; `tensors` makes batches of them."""
        for start in range(first, stop, batch_size):
            yield range(start + rank, min(start + batch_size, stop), world_size)

    def tensors(self, samples: Sequence[int]) -> list[TrainingBatch]:
        """One batch for each text length that occurs, in the order of the lengths."""
        numbers = np.asarray(samples, np.int64)
        rows = self._sound(numbers, self.order.numbers_of(numbers))
        draws, times, noise = self._draws(numbers)
        image_used = self._is_editing[rows] | (draws[:, 1] >= self._batch.drop.image)
        told = image_used & (draws[:, 2] >= self._batch.drop.reflection) & self._has_reflection[rows]
        dropped = draws[:, 0] < self._batch.drop.text
        lengths = np.where(dropped, self._empty_length, self._lengths[rows, told.astype(int)])
        texts = np.where(dropped, self._empty_row, self._texts[rows, told.astype(int)])
        return [
            self._gather(numbers, rows, mine, image_used, int(length), texts, times, noise)
            for length in np.unique(lengths)
            for mine in [np.flatnonzero(lengths == length)]
        ]

    def _sound(self, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The rows, broken ones replaced as `PairDataset` replaces them. WorkFailedError when too many are."""
        for place in np.flatnonzero(self._broken[rows]):
            for attempt in range(REPLACEMENTS):
                if not self._broken[rows[place]]:
                    break
                self.num_broken += 1
                rows[place] = self.order.replacement(int(numbers[place]), attempt)
            else:
                raise WorkFailedError(f"{self.order.index.uri}: {REPLACEMENTS} samples in a row do not read")
        return rows

    def _draws(self, numbers: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Uniform numbers for the drops (n, 3), on the host; logits of t (n,) and noises (n, N, c), on the device."""
        import torch

        shape = self._good.shape[1:]
        if not self._config.fast_noise:
            drops = np.array([np.random.default_rng([self._seed, 71, int(n)]).random(3) for n in numbers])
            each = [noise_of(self._seed, int(n), shape) for n in numbers]
            times = torch.tensor([t for t, _ in each])
            return drops, times.to(self._device), torch.stack([noise for _, noise in each]).to(self._device)
        step = int(numbers[0]) // self._batch_size
        if self._drawn is None or self._drawn[0] != step:
            drops = np.random.default_rng([self._seed, 73, step]).random((self._batch_size, 3))
            generator = torch.Generator(self._device).manual_seed((self._seed * 1_000_003 + step) % 2**63)
            times = torch.randn(self._batch_size, generator=generator, device=self._device)
            noise = torch.randn(self._batch_size, *shape, generator=generator, device=self._device)
            self._drawn = (step, drops, times, noise)
        places = numbers % self._batch_size
        _, drops, times, noise = self._drawn
        where = self._there(places)
        return drops[places], times[where], noise[where]

    def _gather(
        self,
        numbers: np.ndarray,
        rows: np.ndarray,
        mine: np.ndarray,
        image_used: np.ndarray,
        length: int,
        texts: np.ndarray,
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> TrainingBatch:
        """The samples at `mine`, whose texts have one padded length."""
        import torch

        chosen, used = rows[mine], self._there(image_used[mine])
        x0 = self._taken(self._good, chosen)
        condition = torch.where(used[:, None, None], self._taken(self._bad, chosen), self._there_as_is(self._black))
        weight = torch.ones(len(mine), x0.shape[1], 1, device=self._device)
        if self._batch.difference_weight:
            differs = self._taken(self._differs, chosen).float()[:, :, None] * used[:, None, None]
            weight = weight + self._batch.difference_weight * differs
            weight = weight / weight.mean(1, keepdim=True)
        here = self._there(mine)
        return TrainingBatch(
            numbers[mine].tolist(),
            [SUBSETS[code] for code in self.order.index.subset[chosen]],
            x0,
            noise[here].to(self._dtype),
            (self._batch.time_shift + times[here]).sigmoid().to(self._dtype),
            self._taken(self._states[length], texts[mine]),
            self._taken(self._pooled, chosen),
            condition,
            self._condition_ids,
            self._image_ids,
            weight,
        )

    def _taken(self, table: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Rows of a table, on the device and of the model's dtype."""
        import torch

        if table.device == self._device:
            return table[self._there(rows)].to(self._dtype)
        chosen = table[torch.from_numpy(np.ascontiguousarray(rows))]
        return chosen.pin_memory().to(self._device, non_blocking=True).to(self._dtype)

    def _there(self, values: np.ndarray) -> torch.Tensor:
        """A small array on the device, without waiting for it."""
        import torch

        values_here = torch.from_numpy(np.ascontiguousarray(values))
        if self._device.type == "cpu":
            return values_here
        return values_here.pin_memory().to(self._device, non_blocking=True)

    def _there_as_is(self, table: torch.Tensor) -> torch.Tensor:
        return table.to(self._device, self._dtype)


def _chunks(samples: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(samples)
    while chunk := list(islice(rest, size)):
        yield chunk


def _places(index: ShardIndex) -> np.ndarray:
    """int64 (n,): one number for each sample's place, that rises with shard and byte."""
    return (index.shard.astype(np.int64) << 40) + index.start


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(list(parts))
