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
            return all(self._make(task, task.upto, progress, shard_complete_with, stop) for task in tasks)
        for wave in waves(tasks):
            self.worker.unload()  # one stage's models in memory at a time
            if not all(self._make(task, index, progress, shard_complete_with, stop) for task, index in wave):
                return False
        return True

    def _make(
        self,
        task: UnitTask,
        upto: int,
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        finished = self.worker.make_blocks(
            task.steps,
            task.unit,
            upto,
            on_block=lambda step, rows, seconds: progress.add(step.name, rows, seconds),
            stop=stop,
        )
        shard = shard_complete_with(task.unit) if finished and upto == task.upto else None
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
