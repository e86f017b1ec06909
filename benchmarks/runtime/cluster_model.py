"""A run on a cluster as a queue of units: GPUs take the latest stage that waits, nodes fail and come back.

What is simulated is the pipeline's own rule: a unit's block is committed or it is not, and whatever a lost node was at
is done again. A GPU is one server that holds a worker of every stage (`plan`: streaming, all models on every GPU).
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Failures:
    """How nodes go and come. mean_hours: between two failures of one node, exponentially spread; inf for never."""

    mean_hours: float = math.inf
    away_s: float = 600.0
    """Until another node is there."""
    grace_s: float = 0.0
    """Warning before a node goes: units that end within it are committed, no others are begun."""
    noticed_after_s: float = 30.0
    """Until the units of a lost node wait again."""


@dataclass(frozen=True)
class Simulated:
    """What came of it, in seconds of all GPUs together but for `wall_s`; the four parts are all of GPUs x wall_s."""

    wall_s: float
    useful_s: float
    lost_s: float
    """Work that was not committed."""
    away_s: float
    """Nodes that were gone, or loading models."""
    idle_s: float
    """Nothing waited: the end, mostly."""
    failures: int
    peak_commits_per_s: float
    """Blocks of the busiest ten minutes."""


@dataclass
class _Gpu:
    node: int
    stage: int = -1
    unit: int = -1
    begun: float = 0.0
    ends: float = 0.0
    up_since: float = 0.0
    up: bool = True
    task: int = 0
    """Counts tasks: an event of an earlier one says nothing."""


def simulate(
    units: int,
    stage_seconds: Sequence[float],
    gpus: int,
    gpus_per_node: int,
    failures: Failures,
    load_s: float = 0.0,
    spread: float = 0.05,
    seed: int = 0,
) -> Simulated:
    """Run `units` through stages that take a GPU so many seconds each (times a log-normal factor of `spread`).

    load_s: models are loaded at the start and whenever a node comes.
    """
    return _Run(units, stage_seconds, gpus, gpus_per_node, failures, load_s, spread, seed).run()


class _Run:
    def __init__(
        self,
        units: int,
        stage_seconds: Sequence[float],
        gpus: int,
        gpus_per_node: int,
        failures: Failures,
        load_s: float,
        spread: float,
        seed: int,
    ) -> None:
        self.stage_seconds, self.failures, self.load_s, self.spread = stage_seconds, failures, load_s, spread
        self.random = random.Random(seed)
        self.gpus = [_Gpu(number // gpus_per_node) for number in range(gpus)]
        self.nodes = [range(first, min(first + gpus_per_node, gpus)) for first in range(0, gpus, gpus_per_node)]
        self.waiting: list[deque[int]] = [deque(range(units)), *(deque() for _ in stage_seconds[1:])]
        self.left = units
        self.events: list[tuple[float, int, str, int, int]] = []
        self.number = 0
        self.idle: set[int] = set()
        self.useful = self.lost = self.away = 0.0
        self.num_failures = 0
        self.commits: dict[int, int] = {}

    def run(self) -> Simulated:
        now = 0.0
        self.away += self.load_s * len(self.gpus)
        for number in range(len(self.gpus)):
            self._at(self.load_s, "ready", number)
        for node in range(len(self.nodes)):
            self._next_failure(node, self.load_s)
        while self.left:
            now, _, kind, which, task = heapq.heappop(self.events)
            if kind == "ready":
                self._take(which, now)
            elif kind == "done" and self.gpus[which].task == task:
                self._commit(which, now)
                self._take(which, now)
            elif kind == "fails":
                self._fail(which, now)
            elif kind == "noticed":
                self.waiting[task].appendleft(which)
                self._wake(now)
            elif kind == "back":
                self._return(which, now)
        cut_off = self._unfinished(now)
        total = len(self.gpus) * now
        return Simulated(
            now,
            self.useful,
            self.lost,
            self.away - cut_off,
            total - self.useful - self.lost - (self.away - cut_off),
            self.num_failures,
            max(self.commits.values(), default=0) / 600,
        )

    def _at(self, time_s: float, kind: str, which: int, task: int = 0) -> None:
        self.number += 1
        heapq.heappush(self.events, (time_s, self.number, kind, which, task))

    def _take(self, number: int, now: float) -> None:
        gpu = self.gpus[number]
        if not gpu.up:
            return
        stage = next((s for s in reversed(range(len(self.waiting))) if self.waiting[s]), None)
        gpu.task += 1
        if stage is None:
            gpu.unit = -1
            self.idle.add(number)
            return
        self.idle.discard(number)
        gpu.stage, gpu.unit = stage, self.waiting[stage].popleft()
        factor = self.random.lognormvariate(-(self.spread**2) / 2, self.spread) if self.spread else 1.0
        gpu.begun, gpu.ends = now, now + self.stage_seconds[stage] * factor
        self._at(gpu.ends, "done", number, gpu.task)

    def _commit(self, number: int, now: float) -> None:
        gpu = self.gpus[number]
        self.useful += gpu.ends - gpu.begun
        window = int(now // 600)
        self.commits[window] = self.commits.get(window, 0) + 1
        if gpu.stage + 1 < len(self.waiting):
            self.waiting[gpu.stage + 1].append(gpu.unit)
            self._wake(now)
        else:
            self.left -= 1
        gpu.unit = -1

    def _wake(self, now: float) -> None:
        if self.idle and any(self.waiting):
            self._take(min(self.idle), now)

    def _next_failure(self, node: int, now: float) -> None:
        if math.isfinite(self.failures.mean_hours):
            self._at(now + self.random.expovariate(1 / (3600 * self.failures.mean_hours)), "fails", node)

    def _fail(self, node: int, now: float) -> None:
        self.num_failures += 1
        for number in self.nodes[node]:
            gpu = self.gpus[number]
            if gpu.unit >= 0 and gpu.ends - now <= self.failures.grace_s:
                self._commit(number, now)  # the rest of it is done in the grace, which counts as time away
                self.useful -= gpu.ends - now
            elif gpu.unit >= 0:
                self.lost += now - gpu.begun
                self._at(now + self.failures.noticed_after_s, "noticed", gpu.unit, gpu.stage)
                gpu.unit = -1
            gpu.up, gpu.task = False, gpu.task + 1
            gpu.up_since = now + self.failures.away_s + self.load_s
            self.idle.discard(number)
            self.away += self.failures.away_s + self.load_s
        self._at(now + self.failures.away_s + self.load_s, "back", node)

    def _return(self, node: int, now: float) -> None:
        for number in self.nodes[node]:
            self.gpus[number].up = True
            self._take(number, now)
        self._next_failure(node, now)

    def _unfinished(self, now: float) -> float:
        """Time away that was counted ahead and lies after the end."""
        return sum(max(0.0, gpu.up_since - now) for gpu in self.gpus if not gpu.up)
