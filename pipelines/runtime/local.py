"""The local runtime: units one after the other, in this process."""

from collections.abc import Callable, Sequence

from pipelines.jobs import resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from pipelines.runtime.progress import Progress
from pipelines.runtime.runtime import UnitTask, Work, waves
from pipelines.runtime.unit_worker import UnitWorker


class LocalRuntime:
    """`streaming`: a unit through all its stages, then the next. `staged`: a stage over all units, then the next, with
    one stage's models in memory."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.worker = UnitWorker(work.folder, work.policy, work.config.num_threads)

    def make_units(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """See `Runtime`."""
        if self.work.schedule == "streaming":
            return all(self._make(task, progress, shard_complete_with, stop) for task in tasks)
        ends = {task.unit: task.upto for task in tasks}

        def complete(unit: int) -> int | None:
            return shard_complete_with(unit) if unit in last else None

        for wave in waves(tasks):
            self.worker.unload()  # one stage's models in memory at a time
            last = {task.unit for task in wave if task.upto == ends[task.unit]}
            if not all(self._make(task, progress, complete, stop) for task in wave):
                return False
        return True

    def _make(
        self,
        task: UnitTask,
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        finished = self.worker.make_blocks(
            task.steps,
            task.unit,
            task.upto,
            on_block=lambda step, rows, seconds: progress.add(step.name, rows, seconds),
            stop=stop,
        )
        shard = shard_complete_with(task.unit) if finished else None
        if shard is not None:
            self.pack_shards([shard], stop)
        return finished

    def pack_shards(self, indices: Sequence[int], stop: Callable[[], bool]) -> bool:
        """See `Runtime`."""
        work = self.work
        chains = resolve_chains(work.folder, work.config)
        ranges = shard_ranges(work.folder, work.config.pack)
        for index in indices:
            if stop():
                return False
            pack_shard(work.folder, chains, work.config.pack, index, ranges[index])
        return True

    def close(self) -> None:
        """Write what statistics are left."""
        self.worker.stats.flush()
