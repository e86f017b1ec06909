"""Triplets in training order: mixed by a schedule, shuffled by seed, split among ranks, resumed to the sample.

Sample n of a training is a pure function of (shards, schedule, seed, n): which subset, which of its triplets. So the
position of a training is one number, ranks and loader workers take every so-many-th n, and nothing overlaps or is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import CorruptDataError, InputError, WorkFailedError
from schemas.images import decode_image
from schemas.shards import ShardSample
from schemas.stop_signal import leave_signals_to_parent
from schemas.telling import telling
from trainers.comparison_shards import ComparisonMembers
from trainers.pair_labels import margin_of
from trainers.shard_index import SUBSETS, SampleReader, ShardIndex, open_index, subset_counts

log = logging.getLogger(__name__)

_BLOCK = 4096  # samples whose subsets are drawn together
REPLACEMENTS = 8  # tries for another sample in place of a broken one


@dataclass(frozen=True)
class MixSchedule:
    """Sampling weights of the subsets, which move linearly from `start` to `end` over the first `steps` training steps
    (ReflectionFlow §3.3, task warm-up; the published weights)."""

    start: dict[str, float] = field(
        default_factory=lambda: {"general": 0.1, "length": 0.1, "rule": 0.1, "editing": 0.7}
    )
    """Weights of general, length, rule and editing at the first step; they need not sum to 1."""
    end: dict[str, float] = field(default_factory=lambda: {"general": 0.3, "length": 0.3, "rule": 0.4, "editing": 0.0})
    """The same from step `steps` on."""
    steps: int = 5000
    """Training steps over which the weights move."""

    def weights(self, step: np.ndarray, subsets: Sequence[str]) -> np.ndarray:
        """float64 (n, subsets): shares at each step, of the subsets that there are. InputError where all are 0."""
        share = np.clip(step / max(1, self.steps), 0, 1)[:, None]
        first = np.array([self.start.get(name, 0.0) for name in subsets])
        last = np.array([self.end.get(name, 0.0) for name in subsets])
        weights = first * (1 - share) + last * share
        total = weights.sum(1, keepdims=True)
        if (total <= 0).any():
            when = "the start" if total[0] <= 0 else f"step {self.steps}"
            raise InputError(
                f"at {when} of the schedule no subset that is there has a weight (there are: {', '.join(subsets)})",
                field="mix",
                expected="a weight above 0 at its start and its end, such as --mix.end.editing 0.5",
            )
        return weights / total


EVEN_MIX = MixSchedule(dict.fromkeys(SUBSETS, 0.25), dict.fromkeys(SUBSETS, 0.25))
"""Every subset as often as the others, throughout."""


class TrainingOrder:
    """Which triplet is sample n, for any n."""

    def __init__(self, index: ShardIndex, mix: MixSchedule, batch_size: int, seed: int) -> None:
        """batch_size: of all ranks together; it says at which step a sample is used."""
        self.index, self._mix, self._batch_size, self._seed = index, mix, batch_size, seed
        weighted = {name for names in (mix.start, mix.end) for name, weight in names.items() if weight > 0}
        self.subsets = tuple(name for name, count in subset_counts(index).items() if count and name in weighted)
        if not self.subsets:
            raise InputError(
                f"{index.uri} has no triplet of the subsets {', '.join(sorted(weighted))}",
                field="mix",
                expected=f"weights for what is there: {subset_counts(index)}",
            )
        mix.weights(np.array([0, mix.steps]), self.subsets)  # said now, not hours later
        self._members = [index.of_subset(name) for name in self.subsets]
        self._before: list[np.ndarray] = [np.zeros(len(self.subsets), np.int64)]  # uses before each block
        self._block: tuple[int, np.ndarray, np.ndarray] | None = None
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    @property
    def num_pairs(self) -> int:
        """Triplets that are learnt from."""
        return len(self.index)

    @property
    def contents(self) -> dict[str, str]:
        """Digest of each shard's contents by its name."""
        return dict(zip(self.index.shards, self.index.digests, strict=True)) if self.index.digests else {}

    def subset_of(self, n: int) -> str:
        """The subset that sample n is drawn from."""
        return self.subsets[self._draws(n // _BLOCK)[0][n % _BLOCK]]

    def number_of(self, n: int) -> int:
        """The number, in the index, of sample n: every triplet of a subset comes once before one comes again."""
        draws, uses = self._draws(n // _BLOCK)
        subset, use = int(draws[n % _BLOCK]), int(uses[n % _BLOCK])
        members = self._members[subset]
        epoch, place = divmod(use, len(members))
        return int(members[self._order(subset, epoch)[place]])

    def numbers_of(self, samples: np.ndarray) -> np.ndarray:
        """int64 (n,): `number_of` of many samples, int64 (n,)."""
        numbers = np.empty(len(samples), np.int64)
        for block in np.unique(samples // _BLOCK):
            mine = np.flatnonzero(samples // _BLOCK == block)
            draws, uses = (column[samples[mine] % _BLOCK] for column in self._draws(int(block)))
            for subset in np.unique(draws):
                members, of_subset = self._members[subset], draws == subset
                epochs, places = np.divmod(uses[of_subset], len(members))
                found = np.empty(len(epochs), np.int64)
                for epoch in np.unique(epochs):
                    chosen = epochs == epoch
                    found[chosen] = self._order(int(subset), int(epoch))[places[chosen]]
                numbers[mine[of_subset]] = members[found]
        return numbers

    def replacement(self, n: int, attempt: int) -> int:
        """Another triplet of the same subset, in place of sample n, which does not read."""
        members = self._members[self._draws(n // _BLOCK)[0][n % _BLOCK]]
        return int(members[self._rng(2, n, attempt).integers(len(members))])

    def _order(self, subset: int, epoch: int) -> np.ndarray:
        if (subset, epoch) not in self._orders:
            self._orders = {
                key: order for key, order in self._orders.items() if key[0] != subset or key[1] >= epoch - 1
            }
            self._orders[subset, epoch] = self._rng(1, subset, epoch).permutation(len(self._members[subset]))
        return self._orders[subset, epoch]

    def _draws(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Subset of each sample of a block, and how often that subset was used before it."""
        if self._block is None or self._block[0] != block:
            while len(self._before) <= block:
                draws = self._subsets_of_block(len(self._before) - 1)
                self._before.append(self._before[-1] + np.bincount(draws, minlength=len(self.subsets)))
            draws = self._subsets_of_block(block)
            uses = np.zeros(_BLOCK, np.int64)
            for subset in range(len(self.subsets)):
                mine = draws == subset
                uses[mine] = self._before[block][subset] + np.arange(mine.sum())
            self._block = (block, draws, uses)
        return self._block[1], self._block[2]

    def _subsets_of_block(self, block: int) -> np.ndarray:
        numbers = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        weights = self._mix.weights(numbers // self._batch_size, self.subsets)
        return (self._rng(0, block).random(_BLOCK)[:, None] > weights.cumsum(1)[:, :-1]).sum(1)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, 61, *key])


@dataclass(frozen=True)
class Triplet:
    """One training sample, images decoded: uint8 (H, W, 3). `number` is its n in the training."""

    number: int
    good: np.ndarray
    bad: np.ndarray
    prompt: str
    reflection: str
    subset: str
    cot: dict | None = None
    num_replaced: int = 0
    """Broken triplets that were passed over for this one."""
    margin: float | None = None
    """By how much the run's verifier scored the good image higher, where one did."""


class PairDataset:
    """Triplets by n, for `torch.utils.data.DataLoader` with a sampler of numbers (`rank_numbers`).

    A triplet that does not read or decode is named in the log, counted in `num_broken` (of this worker), and replaced
    by another of its subset. WorkFailedError when eight in a row do not.
    """

    def __init__(self, order: TrainingOrder) -> None:
        self.order, self.num_broken = order, 0
        self._reader = SampleReader()
        self._named: set[int] = set()

    def __getitem__(self, n: int) -> Triplet:
        number = self.order.number_of(n)
        for attempt in range(REPLACEMENTS):
            try:
                return _decoded(n, self._reader.read(self.order.index, number), attempt)
            except (CorruptDataError, FileNotFoundError) as error:
                self.num_broken += 1
                if number not in self._named:
                    log.warning("sample skipped: %s", error)
                    self._named.add(number)
                number = self.order.replacement(n, attempt)
        raise WorkFailedError(f"{self.order.index.uri}: {REPLACEMENTS} samples in a row do not read; see the log")


def _decoded(n: int, sample: ShardSample, num_replaced: int) -> Triplet:
    return Triplet(
        number=n,
        good=decode_image(sample.good_image, f"{sample.key}.good_image"),
        bad=decode_image(sample.bad_image, f"{sample.key}.bad_image"),
        prompt=sample.prompt,
        reflection=sample.reflection,
        subset=sample.subset.strip(),
        cot=sample.cot,
        num_replaced=num_replaced,
        margin=margin_of(sample.meta),
    )


class PairLoader:
    """Where a training's samples come from: decoded triplets, step by step, read ahead by worker processes."""

    def __init__(self, order: TrainingOrder, num_workers: int) -> None:
        self.order, self.num_broken = order, 0
        self._num_workers = num_workers

    def batches(self, first: int, stop: int, batch_size: int, rank: int, world_size: int) -> Iterator[list[Triplet]]:
        """One rank's triplets of the samples [first, stop), a step of `batch_size` (of all ranks) after the other."""
        import torch

        loader: Any = torch.utils.data.DataLoader(
            PairDataset(self.order),  # pyright: ignore[reportArgumentType]
            batch_size=batch_size // world_size,
            sampler=range(first + rank, stop, world_size),
            num_workers=self._num_workers,
            collate_fn=list,
            worker_init_fn=leave_signals_to_parent,
            # The client of an object store has threads, which a forked process would wait for in vain.
            multiprocessing_context="spawn" if self._num_workers and "://" in self.order.index.uri else None,
        )
        for triplets in loader:
            self.num_broken += sum(t.num_replaced for t in triplets)
            yield triplets


def rank_numbers(first: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[int]:
    """The samples of one rank: every `world_size`-th of [first, stop)."""
    return iter(range(first + rank, stop, world_size))


def open_data(
    data: str,
    out: Path,
    held_out_share: float,
    mix: MixSchedule,
    batch_size: int,
    seed: int,
    comparisons: ComparisonMembers | None = None,
) -> tuple[TrainingOrder, ShardIndex]:
    """The training order of a run's shards, and what is held out of it. InputError where there is no data."""
    if not data:
        raise InputError("no data", field="--data", expected="a run folder, a folder of shards, or a hub id")
    with telling(f"indexing {data}"):
        index = open_index(data, out / "cache", comparisons)
    training, held_out = hold_out(index, held_out_share, seed)
    return TrainingOrder(training, mix, batch_size, seed), held_out


def hold_out(index: ShardIndex, share: float, seed: int) -> tuple[ShardIndex, ShardIndex]:
    """(training, evaluation), `share` of the samples in the latter. Runs of eight neighbours stay on one side: pairs of
    one prompt lie beside each other. With a share above 0 one run at least is held out, where there is another."""
    draws = np.random.default_rng([seed, 62]).random(-(-len(index) // 8))
    runs = draws < share
    if share > 0 and len(draws) > 1:
        runs[draws.argmin()] = True
    chosen = np.repeat(runs, 8)[: len(index)]
    return index.where(~chosen), index.where(chosen)
