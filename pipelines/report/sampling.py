"""Which of many pairs a page shows: a sample that is spread over strata, the same every time, whatever the order."""

import heapq
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.configuration import stable_seed

T = TypeVar("T")
Stratum = tuple[str, ...]


@dataclass(frozen=True)
class Drawn(Generic[T]):
    """One sampled item and where it came from."""

    stratum: Stratum
    key: str
    item: T


class StratifiedSample(Generic[T]):
    """Keeps at most `limit` items a stratum while items stream by: those whose hash with the seed is lowest.

    A hash instead of a random generator: the draw does not depend on the order in which blocks are read.
    """

    def __init__(self, limit: int, seed: int) -> None:
        self.limit, self.seed = limit, seed
        self.num_seen = 0
        self._heaps: dict[Stratum, list[tuple[int, str, T]]] = {}

    def add(self, stratum: Stratum, key: str, item: T) -> None:
        """Offer an item. key: unique among all items."""
        self.num_seen += 1
        heap = self._heaps.setdefault(stratum, [])
        entry = (-stable_seed(self.seed, "report", key), key, item)
        if len(heap) < self.limit:
            heapq.heappush(heap, entry)
        elif heap and entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)

    def drawn(self) -> list[Drawn[T]]:
        """At most `limit` items, one of each stratum in turn: every prefix is a stratified sample itself."""
        ranked: list[tuple[int, Stratum, Drawn[T]]] = []
        for stratum, heap in self._heaps.items():
            best_first = sorted(heap, key=lambda entry: (-entry[0], entry[1]))
            ranked += [(rank, stratum, Drawn(stratum, key, item)) for rank, (_, key, item) in enumerate(best_first)]
        ranked.sort(key=lambda entry: entry[:2])
        return [drawn for _, _, drawn in ranked[: self.limit]]
