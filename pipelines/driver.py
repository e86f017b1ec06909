"""The driver: finds what is missing in a run folder, has a runtime make it, settles barriers, packs shards.

It holds the lease, never an image, and can be killed at any instant: whatever is committed stays, `resume` does the
rest.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.lease import Lease
from pipelines.pack_shards import pack_shard, packed, shard_inputs, shard_ranges, write_index
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.local import Schedule, UnitTask, run_local
from pipelines.runtime.progress import Progress, StageProgress
from pipelines.stage import Step
from schemas.errors import CorruptDataError, LeaseHeldError
from schemas.records import PromptRow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How a run is computed: nothing here changes one byte of what it makes."""

    runtime: Literal["local"] = "local"
    """Where the stages run."""
    schedule: Schedule = "streaming"
    """streaming: all stages at once, models resident; staged: one stage over all units, then the next."""
    take_over: bool = False
    """Take the run over from a driver that is known to be gone."""
    check_blocks: bool = False
    """Read every committed block first; those that do not read are made again."""
    quiet: bool = False
    """No progress lines."""
    failures: FailurePolicy = field(default_factory=FailurePolicy)


def drive(folder: RunFolder, config: JobConfig, options: RunOptions) -> bool:
    """Do everything that is left to do. True when the run is complete, False when it was asked to stop before."""
    with Lease(folder.storage, take_over=options.take_over) as lease, stop_signal() as stopped:

        def stop() -> bool:
            if lease.lost.is_set():
                raise LeaseHeldError(f"{folder.storage.uri}: another driver took the lease; this one stops")
            return stopped()

        folder.storage.sweep()
        try:
            return _advance(folder, config, options, stop)
        except CorruptDataError as error:
            # An unreadable block counts as missing: look at every block, and make again what does not read.
            log.warning("%s; every block is checked now", error)
            return _advance(folder, config, replace(options, check_blocks=True), stop)


def _advance(folder: RunFolder, config: JobConfig, options: RunOptions, stop: Callable[[], bool]) -> bool:
    while True:
        chains = resolve_chains(folder, config)
        if not _make_units(folder, chains, config, options, stop):
            return False
        if not _settle_barriers(folder, chains):
            break
    packer = _Packer(folder, chains, config)
    for index in range(len(packer.ranges)):
        if stop():
            return False
        packer.pack(index)
    write_index(folder, len(packer.ranges))
    return True


def settled_depth(steps: list[Step]) -> int:
    """Index of the last step whose key is known; -1 for none."""
    return sum(step.settled for step in steps) - 1


def _make_units(
    folder: RunFolder,
    chains: dict[str, list[Step]],
    config: JobConfig,
    options: RunOptions,
    stop: Callable[[], bool],
) -> bool:
    tasks: list[UnitTask] = []
    stages: dict[str, StageProgress] = {}
    for subset, steps in chains.items():
        units = folder.units(subset)
        committed = {step.name: folder.committed_units(step.name, step.key) for step in steps if step.settled}
        upto = settled_depth(steps)
        for step in steps[: upto + 1]:
            progress = stages.setdefault(step.name, StageProgress(step.name, 0))
            progress.total += len(units)
            progress.already += len(committed[step.name].intersection(units))
        done = committed[steps[upto].name]
        tasks += [UnitTask(unit, steps, upto) for unit in units if options.check_blocks or unit not in done]
    packer = _Packer(folder, chains, config)
    with Progress(list(stages.values()), quiet=options.quiet or not tasks) as progress:
        return run_local(
            folder,
            tasks,
            num_threads=config.num_threads,
            policy=options.failures,
            schedule=options.schedule,
            check_blocks=options.check_blocks,
            progress=progress,
            on_unit_done=packer.unit_done,
            stop=stop,
        )


def _settle_barriers(folder: RunFolder, chains: dict[str, list[Step]]) -> bool:
    """Compute the barriers whose upstream is complete now. True when there was one, so that there is more to do."""
    settled = False
    for subset, steps in chains.items():
        waiting = next((step for step in steps if step.barrier_path), None)
        if waiting is None or waiting.link.barrier is None or waiting.barrier_path is None:
            continue
        before = steps[waiting.index - 1]
        value = waiting.link.barrier(_rows(folder, before, folder.units(subset)))
        folder.write_json(waiting.barrier_path, value)
        settled = True
    return settled


def _rows(folder: RunFolder, step: Step, units: Iterable[int]) -> Iterator[PromptRow]:
    for unit in units:
        yield from folder.read_block(step.name, step.key, unit)[1]


class _Packer:
    """Packs a shard as soon as the last of its units is done."""

    def __init__(self, folder: RunFolder, chains: dict[str, list[Step]], config: JobConfig) -> None:
        self.folder, self.chains, self.config = folder, chains, config.pack
        self.ranges = shard_ranges(folder, config.pack)
        self.complete = all(step.settled for steps in chains.values() for step in steps)
        self.missing: dict[int, set[int]] = {}
        if self.complete:
            done = {subset: folder.committed_units(steps[-1].name, steps[-1].key) for subset, steps in chains.items()}
            for index, units in enumerate(self.ranges):
                self.missing[index] = {u for u in units if u not in done[folder.segment_of(u).subset]}

    def unit_done(self, unit: int) -> None:
        """A unit's last block is committed."""
        if not self.complete:
            return
        index = unit // self.config.units_per_shard
        self.missing[index].discard(unit)
        if not self.missing[index]:
            self.pack(index)

    def pack(self, index: int) -> None:
        """Pack a shard unless it is packed already. CorruptDataError when a block or image of it does not read."""
        units = self.ranges[index]
        inputs = shard_inputs(self.folder, self.chains, self.config, units)
        if packed(self.folder, index, inputs):
            return
        try:
            pack_shard(self.folder, self.chains, self.config, index, units)
        except FileNotFoundError as error:
            raise CorruptDataError(f"a block is missing: {error}") from error


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """SIGINT or SIGTERM once: finish the block at hand and stop. Twice: stop now. Yields "was it asked to stop?"."""
    asked = threading.Event()

    def handle(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("stopping after the block at hand; once more to stop now", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
