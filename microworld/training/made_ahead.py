"""What training steps consume, made by other processes while the steps run: a GPU is faster than what feeds it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LONGEST_WAIT_S = 600


class MadeAhead(Generic[T]):
    """`make(first)`, `make(first + 1)`, ... in order. With workers they are made by so many processes, a few each ahead
    of what is asked for; without, when they are asked for. What is made depends on its number alone.

    Workers are forked at the first `next`, each with one CPU thread: `make` may use anything but the GPU.
    """

    def __init__(self, make: Callable[[int], T], workers: int = 0, first: int = 0, ahead: int = 4) -> None:
        self._make, self._workers, self._first, self._ahead = make, workers, first, ahead
        self._stream: Iterator[T] | None = None

    def next(self) -> T:
        """The next one."""
        if self._stream is None:
            self._stream = self._open()
        return next(self._stream)

    def _open(self) -> Iterator[T]:
        if not self._workers:
            return map(self._make, itertools.count(self._first))
        from torch import multiprocessing
        from torch.utils.data import DataLoader

        multiprocessing.set_sharing_strategy("file_system")  # a batch has many tensors, and a process few descriptors
        loader: Any = DataLoader(
            _Numbered(self._make),  # pyright: ignore[reportArgumentType]
            batch_size=None,
            sampler=_CountingFrom(self._first),
            num_workers=self._workers,
            prefetch_factor=self._ahead,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare_worker,
            timeout=LONGEST_WAIT_S,  # a worker that stands still is an error, and not a training that does
            multiprocessing_context="fork",
        )
        return iter(loader)


class _Numbered(Generic[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T:
        return self._make(number)


class _CountingFrom:
    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._first)


def _as_it_is(made: T) -> T:
    return made


def _prepare_worker(number: int) -> None:
    """DataLoader gives a worker one thread of PyTorch's; the tokenizers' threads do not survive a fork."""
    del number
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
