"""What a runtime does for the driver: make blocks and pack shards, wherever it likes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of a chain that one loaded stage makes (the rounds of a search). turn: how many stretches of
    this stage the chain has before."""

    name: str
    turn: int
    first: int
    last: int


def stretches(steps: Sequence[Step]) -> list[Stretch]:
    """A chain in stretches, in order."""
    found: list[Stretch] = []
    for index, step in enumerate(steps):
        if found and steps[index - 1].loaded_as == step.loaded_as:
            found[-1] = replace(found[-1], last=index)
        else:
            turn = sum(stretch.name == step.name for stretch in found)
            found.append(Stretch(step.name, turn, index, index))
    return found


def stage_order(tasks: Sequence[UnitTask]) -> list[tuple[str, int]]:
    """Name and turn of all stretches, in an order in which every chain passes them."""
    sorter: TopologicalSorter[tuple[str, int]] = TopologicalSorter()
    chains = {id(task.steps): task.steps for task in tasks}  # few: units of a subset share theirs
    for steps in chains.values():
        nodes = [(stretch.name, stretch.turn) for stretch in stretches(steps)]
        sorter.add(nodes[0])
        for before, after in pairwise(nodes):
            sorter.add(after, before)
    return list(sorter.static_order())


def waves(tasks: Sequence[UnitTask]) -> Iterator[list[UnitTask]]:
    """For the staged schedule: one stage after the other, each time the tasks cut down to what that stage makes. Blocks
    that are there already are no tasks."""
    chains = {id(task.steps): task.steps for task in tasks}
    cut = {key: {(s.name, s.turn): s for s in stretches(steps)} for key, steps in chains.items()}
    for node in stage_order(tasks):
        wave = []
        for task in tasks:
            stretch = cut[id(task.steps)].get(node)
            if stretch is not None:
                first, last = max(task.first, stretch.first), min(task.upto, stretch.last)
                if first <= last:
                    wave.append(replace(task, first=first, upto=last))
        if wave:
            yield wave


@dataclass(frozen=True)
class Work:
    """What a runtime is made for: a run with its configuration, and how to go about it."""

    folder: RunFolder
    config: JobConfig
    policy: FailurePolicy
    schedule: Schedule
    asking_units: int = 1

    def units_at_once(self, step: Step) -> int:
        """That one worker has under way: one, unless all it does is to wait for answers."""
        return self.asking_units if step.link.is_client else 1


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
