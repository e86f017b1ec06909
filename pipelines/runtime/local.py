"""The local runtime: units one after the other, in this process; several at once where they wait for answers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipelines.jobs import resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from pipelines.runtime import given_up
from pipelines.runtime.progress import Progress
from pipelines.runtime.runtime import UnitTask, Work, waves
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.runtime.watch import Limits, Watchdog
from pipelines.stage import Step
from schemas.records import PromptRow


class LocalRuntime:
    """`streaming`: a unit through all its stages, then the next. `staged`: a stage over all units, then the next, with
    one stage's models in memory."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.worker = UnitWorker(work.folder, work.policy, work.config.num_threads)
        self.limits = Limits(work.policy)
        self._counting = threading.Lock()

    def make_units(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """See `Runtime`."""
        self.worker.say = progress.say
        self.worker.with_care = given_up.noted(self.work.folder)
        with Watchdog(self.work.folder, self.worker, self.limits, progress.close):
            return self._make_all(tasks, progress, shard_complete_with, stop)

    def _make_all(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        if self.work.schedule == "streaming":
            return all(self._make(task, progress, shard_complete_with, stop) for task in tasks)
        ends = {task.unit: task.upto for task in tasks}

        def complete(unit: int) -> int | None:
            return shard_complete_with(unit) if unit in last else None

        for wave in waves(tasks):
            self.worker.unload()  # one stage's models in memory at a time
            last = {task.unit for task in wave if task.upto == ends[task.unit]}
            if not self._make_wave(wave, progress, complete, stop):
                return False
        return True

    def _make_wave(
        self,
        wave: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """One stage over its units: in threads where it only waits for answers."""
        at_once = self.work.units_at_once(wave[0].steps[wave[0].upto])
        if at_once == 1:
            return all(self._make(task, progress, shard_complete_with, stop) for task in wave)
        failed = threading.Event()
        with ThreadPoolExecutor(at_once) as pool:
            made = [pool.submit(self._blocks, task, progress, lambda: failed.is_set() or stop()) for task in wave]
            tasks = dict(zip(made, wave, strict=True))
            try:
                for future in as_completed(made):
                    if future.result():
                        self._pack_with(tasks[future].unit, shard_complete_with, stop)
            except BaseException:
                failed.set()  # what has begun is finished, and nothing more is begun
                raise
        return all(future.result() for future in made)

    def _make(
        self,
        task: UnitTask,
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        finished = self._blocks(task, progress, stop)
        if finished:
            self._pack_with(task.unit, shard_complete_with, stop)
        return finished

    def _blocks(self, task: UnitTask, progress: Progress, stop: Callable[[], bool]) -> bool:
        def count(step: Step, rows: list[PromptRow], seconds: float) -> None:
            with self._counting:
                progress.add(step.name, rows, seconds)
                self.limits.saw(step.name, seconds)

        return self.worker.make_blocks(task.steps, task.unit, task.upto, on_block=count, stop=stop)

    def _pack_with(self, unit: int, shard_complete_with: Callable[[int], int | None], stop: Callable[[], bool]) -> None:
        shard = shard_complete_with(unit)
        if shard is not None:
            self.pack_shards([shard], stop)

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
