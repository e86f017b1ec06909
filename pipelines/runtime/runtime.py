"""What a runtime does for the driver: make blocks and pack shards, wherever it likes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Literal, Protocol

from pipelines.jobs import JobConfig
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.progress import Progress
from pipelines.stage import Step

Schedule = Literal["streaming", "staged"]


@dataclass(frozen=True)
class UnitTask:
    """Make the blocks of a unit, up to the step `upto` (included). first: the first step whose block is missing."""

    unit: int
    steps: Sequence[Step]
    upto: int
    first: int = 0


def stage_order(tasks: Sequence[UnitTask]) -> list[str]:
    """Names of all stages, in an order in which every chain passes them."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for names in dict.fromkeys(tuple(step.name for step in task.steps) for task in tasks):
        sorter.add(names[0])
        for before, after in pairwise(names):
            sorter.add(after, before)
    return list(sorter.static_order())


def waves(tasks: Sequence[UnitTask]) -> Iterator[list[tuple[UnitTask, int]]]:
    """For the staged schedule: the tasks of one stage after the other, each with the index of its step. Blocks that are
    there already are no tasks."""
    for name in stage_order(tasks):
        wave = []
        for task in tasks:
            index = next((i for i, step in enumerate(task.steps) if step.name == name), None)
            if index is not None and task.first <= index <= task.upto:
                wave.append((task, index))
        if wave:
            yield wave


@dataclass(frozen=True)
class Work:
    """What a runtime is made for: a run with its configuration, and how to go about it."""

    folder: RunFolder
    config: JobConfig
    policy: FailurePolicy
    schedule: Schedule


class Runtime(Protocol):
    """Runs stages. Blocks and shards are committed by whoever makes them; the driver sees counts alone."""

    def make_units(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """Make every block that the tasks name. After a unit's last block, pack the shard that is complete with it, if
        there is one. False when stopped before the end."""
        ...

    def pack_shards(self, indices: Sequence[int], stop: Callable[[], bool]) -> bool:
        """Pack the shards of these numbers. False when stopped before the end. CorruptDataError for a bad block."""
        ...

    def close(self) -> None:
        """Let go of workers."""
        ...
