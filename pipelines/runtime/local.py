"""The local runtime: units one after the other, in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.progress import Progress
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.stage import Step

Schedule = Literal["streaming", "staged"]


@dataclass(frozen=True)
class UnitTask:
    """Make the blocks of a unit, up to the step `upto` (included)."""

    unit: int
    steps: Sequence[Step]
    upto: int


def run_local(
    folder: RunFolder,
    tasks: Sequence[UnitTask],
    *,
    num_threads: int,
    policy: FailurePolicy,
    schedule: Schedule,
    check_blocks: bool,
    progress: Progress,
    on_unit_done: Callable[[int], None],
    stop: Callable[[], bool],
) -> bool:
    """Work through the tasks. `streaming`: a unit through all its stages, then the next. `staged`: a stage over all
    units, then the next, with one stage's models in memory. False when stopped before the end."""
    worker = UnitWorker(folder, policy, num_threads, check_blocks=check_blocks)
    depth = max((task.upto for task in tasks), default=-1)
    passes = [depth] if schedule == "streaming" else range(depth + 1)
    try:
        for upto in passes:
            if schedule == "staged":
                worker.unload()
            for task in tasks:
                finished = worker.make_blocks(
                    task.steps,
                    task.unit,
                    min(upto, task.upto),
                    on_block=lambda step, rows, seconds: progress.add(step.name, rows, seconds),
                    stop=stop,
                )
                if not finished:
                    return False
                if upto >= task.upto:
                    on_unit_done(task.unit)
        return True
    finally:
        worker.stats.flush()
