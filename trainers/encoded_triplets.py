"""A training's samples from triplets that were encoded once: a batch is a few lookups.

A step then runs neither VAE nor text encoders, and decodes no image. Sample n is what it is without (same triplet,
drops, time and noise), with two exceptions: of images of another aspect the middle is taken, not a random crop; and
latents and text states are rounded to `EncodingConfig.dtype`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from inference.flux.latents import token_grid
from schemas.errors import WorkFailedError
from schemas.image_size import ImageSize
from trainers.corrector_batches import BatchConfig, TrainingBatch, noise_of, times_of
from trainers.shard_dataset import REPLACEMENTS, TrainingOrder
from trainers.shard_encoder import STATES, EncodingConfig, ShardEncoder, size_suffix
from trainers.shard_index import SUBSETS, ShardIndex

if TYPE_CHECKING:
    import torch

    from inference.flux.condition_config import ConditionConfig
    from inference.flux.generator import FluxGenerator


class Table(Protocol):
    """Rows of tensors of one shape."""

    @property
    def num_bytes(self) -> int:
        """Held in memory, the device's or the machine's."""
        ...

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Rows int64 (n,) as a tensor (n, ...), on the device."""
        ...


class TensorTable:
    """One tensor, on the device or in main memory."""

    def __init__(self, values: torch.Tensor, device: torch.device, keep_on: str) -> None:
        self._device = device
        on_device = keep_on == "device" or device.type == "cpu"
        self._values = values.to(device) if on_device else values

    @property
    def num_bytes(self) -> int:
        return self._values.numel() * self._values.element_size()

    def take(self, rows: np.ndarray) -> torch.Tensor:
        if self._values.device == self._device:
            return self._values[to_device(rows, self._device)]
        return to_device(self._values[np.ascontiguousarray(rows)], self._device)


class FileTable:
    """The same tensor of many safetensors files, one after the other; rows are read when they are taken."""

    def __init__(self, files: Sequence[Any], name: str, chosen: np.ndarray | None, device: torch.device) -> None:
        """files: open. chosen: which of all the files' rows are the table's; None for all."""
        self._slices = [file.get_slice(name) for file in files if name in file.keys()]  # noqa: SIM118 - no mapping
        self._starts = np.cumsum([0, *(part.get_shape()[0] for part in self._slices)])
        self._chosen, self._device, self.num_bytes = chosen, device, 0

    def take(self, rows: np.ndarray) -> torch.Tensor:
        import torch

        rows = rows if self._chosen is None else self._chosen[rows]
        files = np.searchsorted(self._starts, rows, side="right") - 1
        places = (rows - self._starts[files]).tolist()
        return to_device(
            torch.cat([self._slices[f][p : p + 1] for f, p in zip(files.tolist(), places, strict=True)]), self._device
        )


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """There, without waiting until it is."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@dataclass
class _Bucket:
    """What samples of one size are made of. images: "good", "bad" and "differs"; black: the condition (1, M, c) that
    shows no image; noise_shape: (N, c)."""

    images: dict[str, Table]
    black: torch.Tensor
    image_ids: torch.Tensor
    condition_ids: torch.Tensor
    noise_shape: tuple[int, int]


class EncodedTriplets:
    """Every training sample by its number, as tensors on the device. See `trainers.loop.SampleSource`."""

    def __init__(
        self,
        everything: ShardIndex,
        order: TrainingOrder,
        generator: FluxGenerator,
        batch: BatchConfig,
        condition: ConditionConfig,
        config: EncodingConfig,
        seed: int,
        batch_size: int,
        cache: Path,
    ) -> None:
        """Encodes what is not in the cache. everything: the index of which `order` has the training part."""
        self.order, self.num_broken = order, 0
        self._batch, self._config, self._seed, self._batch_size = batch, config, seed, batch_size
        pipeline = generator.pipeline
        self._dtype, self._device = pipeline.transformer.dtype, pipeline.transformer.device
        encoder = ShardEncoder(generator, batch, config, config.cache or cache)
        files = self._open([encoder.file_of(everything, n) for n in np.unique(everything.shard).tolist()], everything)
        self._buckets = {
            number: self._bucket(files, size, number, encoder, condition, pipeline)
            for number, size in enumerate(batch.buckets)
            if (self._sizes == number).any()
        }
        self._empty_length = generator.text_length("")
        self._empty = encoder.text_states([""], self._empty_length).to(self._device, self._dtype)
        self._drawn: tuple[int, np.ndarray, torch.Tensor, torch.Tensor] | None = None

    def _open(self, paths: Sequence[Path], everything: ShardIndex) -> list[Any]:
        """Tables of the training index's rows, and of all texts. The files' rows are those of `everything`."""
        from safetensors import safe_open

        files: list[Any] = [safe_open(path, "pt") for path in paths]
        chosen = self._chosen = np.searchsorted(_places(everything), _places(self.order.index))
        self._pooled = self._table(files, "pooled", chosen)
        names = sorted({name for file in files for name in file.keys() if name.startswith(STATES)})  # noqa: SIM118
        self._states = {int(name.removeprefix(STATES)): self._table(files, name, None) for name in names}
        first, lengths, texts = dict.fromkeys(self._states, 0), [], []
        for file in files:
            its_lengths, its_texts = (file.get_tensor(name).numpy() for name in ("lengths", "texts"))
            lengths.append(its_lengths)
            texts.append(its_texts + np.vectorize(first.__getitem__, otypes=[np.int64])(its_lengths))
            for length in first:
                name = f"{STATES}{length}"
                first[length] += file.get_slice(name).get_shape()[0] if name in file.keys() else 0  # noqa: SIM118
        self._lengths, self._texts = np.concatenate(lengths)[chosen], np.concatenate(texts)[chosen]
        self._broken = np.concatenate([file.get_tensor("broken").numpy() for file in files])[chosen].astype(bool)
        self._is_editing = self.order.index.subset == SUBSETS.index("editing")
        self._has_reflection = (self._lengths[:, 0] != self._lengths[:, 1]) | (self._texts[:, 0] != self._texts[:, 1])
        all_sizes = np.zeros(len(everything), np.int32)
        if self._batch.sizes:
            all_sizes = np.concatenate([file.get_tensor("size").numpy() for file in files])
        self._all_sizes, self._sizes = all_sizes, all_sizes[chosen]
        self._rows_of_size = np.zeros(len(chosen), np.int64)  # where among the chosen rows of its size each row stands
        return files

    def _bucket(
        self,
        files: Sequence[Any],
        size: ImageSize,
        number: int,
        encoder: ShardEncoder,
        condition: ConditionConfig,
        pipeline: Any,
    ) -> _Bucket:
        """Of the size with this number."""
        from inference.flux.conditioning import place_condition

        mine = self._sizes == number
        self._rows_of_size[mine] = np.arange(mine.sum())
        # The files' rows of one size stand by themselves, in the order in which they are among all.
        among_all = np.cumsum(self._all_sizes == number) - 1
        suffix, chosen = size_suffix(self._batch, size), among_all[self._chosen[mine]]
        shown = encoder.shown(size)
        black = encoder.latents([np.zeros((8, 8, 3), np.uint8)], shown).to(self._device, self._dtype)
        drawn_grid, shown_grid = token_grid(pipeline, size), token_grid(pipeline, shown)
        return _Bucket(
            {name: self._table(files, name + suffix, chosen) for name in ("good", "bad", "differs")},
            black,
            pipeline._prepare_latent_image_ids(1, *drawn_grid, self._device, self._dtype),
            place_condition(condition, shown_grid, drawn_grid).to(self._device, self._dtype),
            (drawn_grid[0] * drawn_grid[1], black.shape[-1]),
        )

    def _table(self, files: Sequence[Any], name: str, chosen: np.ndarray | None) -> Table:
        import torch

        if self._config.keep_on == "disk":
            return FileTable(files, name, chosen, self._device)
        whole = torch.cat([file.get_tensor(name) for file in files if name in file.keys()])  # noqa: SIM118
        return TensorTable(whole if chosen is None else whole[chosen], self._device, self._config.keep_on)

    @property
    def num_bytes(self) -> int:
        """Of all that is kept in memory."""
        images = [table for bucket in self._buckets.values() for table in bucket.images.values()]
        return sum(table.num_bytes for table in (*images, self._pooled, *self._states.values()))

    def batches(self, first: int, stop: int, batch_size: int, rank: int, world_size: int) -> Iterator[Sequence[int]]:
        """One rank's sample numbers of the steps; `tensors` makes batches of them."""
        for start in range(first, stop, batch_size):
            yield range(start + rank, min(start + batch_size, stop), world_size)

    def tensors(self, samples: Sequence[int]) -> list[TrainingBatch]:
        """One batch for each text length and size that occurs, in the order of the lengths, then of the sizes."""
        numbers = np.asarray(samples, np.int64)
        rows = self._sound(numbers, self.order.numbers_of(numbers))
        drops, times = self._draws(numbers)
        image_used = self._is_editing[rows] | (drops[:, 1] >= self._batch.drop.image)
        told = image_used & (drops[:, 2] >= self._batch.drop.reflection) & self._has_reflection[rows]
        dropped = drops[:, 0] < self._batch.drop.text
        lengths = np.where(dropped, self._empty_length, self._lengths[rows, told.astype(int)])
        texts = np.where(dropped, -1, self._texts[rows, told.astype(int)])
        sizes = self._sizes[rows]
        batches = []
        for length, size in np.unique(np.stack([lengths, sizes], 1), axis=0).tolist():
            mine = np.flatnonzero((lengths == length) & (sizes == size))
            here = to_device(mine, self._device)
            batches.append(
                self._gather(numbers[mine], rows[mine], image_used[mine], length, texts[mine], times[here], size)
            )
        return batches

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

    def _draws(self, numbers: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Uniform numbers for the drops (n, 3), on the host; logits of t (n,), on the device."""
        import torch

        if not self._config.fast_noise:
            drops = np.array([np.random.default_rng([self._seed, 71, int(n)]).random(3) for n in numbers])
            times = torch.tensor([noise_of(self._seed, int(n), (0,))[0] for n in numbers])
            return drops, to_device(times, self._device)
        _, drops, times, _ = self._drawn_for(numbers)
        places = numbers % self._batch_size
        return drops[places], times[to_device(places, self._device)]

    def _noise(self, numbers: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
        """(n, *shape), on the device."""
        import torch

        if not self._config.fast_noise:
            return to_device(torch.stack([noise_of(self._seed, int(n), shape)[1] for n in numbers]), self._device)
        noise = self._drawn_for(numbers)[3]
        return noise[to_device(numbers % self._batch_size, self._device), : shape[0]]

    def _drawn_for(self, numbers: np.ndarray) -> tuple[int, np.ndarray, torch.Tensor, torch.Tensor]:
        """Of the step that the samples are of: its number, drops, logits of t, and noises as large as the largest."""
        import torch

        step = int(numbers[0]) // self._batch_size
        if self._drawn is None or self._drawn[0] != step:
            drops = np.random.default_rng([self._seed, 73, step]).random((self._batch_size, 3))
            generator = torch.Generator(self._device).manual_seed((self._seed * 1_000_003 + step) % 2**63)
            times = torch.randn(self._batch_size, generator=generator, device=self._device)
            largest = max(bucket.noise_shape for bucket in self._buckets.values())
            noise = torch.randn(self._batch_size, *largest, generator=generator, device=self._device)
            self._drawn = (step, drops, times, noise)
        return self._drawn

    def _gather(
        self,
        numbers: np.ndarray,
        rows: np.ndarray,
        image_used: np.ndarray,
        length: int,
        texts: np.ndarray,
        times: torch.Tensor,
        size: int,
    ) -> TrainingBatch:
        """Samples of one size whose texts have one padded length. texts: rows among its states, -1 for the empty
        text."""
        import torch

        bucket, of_size = self._buckets[size], self._rows_of_size[rows]
        x0, bad = (bucket.images[name].take(of_size).to(self._dtype) for name in ("good", "bad"))
        pooled = self._pooled.take(rows).to(self._dtype)
        noise = self._noise(numbers, bucket.noise_shape)
        used = to_device(image_used, self._device)[:, None, None]
        weight = torch.ones(len(rows), x0.shape[1], 1, device=self._device)
        if self._batch.difference_weight:
            differs = bucket.images["differs"].take(of_size).float()[:, :, None] * used
            weight = weight + self._batch.difference_weight * differs
            weight = weight / weight.mean(1, keepdim=True)
        return TrainingBatch(
            numbers.tolist(),
            [SUBSETS[code] for code in self.order.index.subset[rows]],
            x0,
            noise.to(self._dtype),
            times_of(times, self._batch).to(self._dtype),
            self._text_states(length, texts),
            pooled,
            torch.where(used, bad, bucket.black),
            bucket.condition_ids,
            bucket.image_ids,
            weight,
        )

    def _text_states(self, length: int, texts: np.ndarray) -> torch.Tensor:
        import torch

        if (texts < 0).all():
            return self._empty.expand(len(texts), -1, -1)
        states = self._states[length].take(np.maximum(texts, 0)).to(self._dtype)
        if length != self._empty_length:
            return states
        return torch.where(to_device(texts < 0, self._device)[:, None, None], self._empty, states)


def _places(index: ShardIndex) -> np.ndarray:
    """int64 (n,): one number for each sample's place, that rises with shard and byte."""
    return (index.shard.astype(np.int64) << 40) + index.start
