"""The driver: finds what is missing in a run folder, has a runtime make it, settles barriers, packs shards.

It holds the lease, never an image, and can be killed at any instant: whatever is committed stays, `resume` does the
rest.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.lease import Lease
from pipelines.pack_shards import packed, reads_as_packed, shard_inputs, shard_ranges, write_index
from pipelines.quarantine import drop_shard_of
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.local import LocalRuntime
from pipelines.runtime.progress import Progress, StageProgress
from pipelines.runtime.runtime import Runtime, Schedule, UnitTask, Work
from pipelines.stage import Step
from schemas.arrow import canonical_json, hash_rows
from schemas.errors import CorruptDataError, ForeignRunError, InputError
from schemas.records import PromptRow
from schemas.shards import shard_name, sidecar_name
from schemas.stop_signal import stop_signal
from trainers.ray_cluster import require_ray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """How a run is computed: nothing here changes one byte of what it makes."""

    runtime: Literal["local", "ray"] = "local"
    """Where the stages run: in this process, or on a Ray cluster (RAY_ADDRESS, or one started for the run)."""
    schedule: Schedule = "streaming"
    """streaming: all stages at once, models resident; staged: one stage over all units, then the next."""
    asking_units: int = 8
    """Units that a worker has under way at once, of a stage whose work is to ask a vLLM or an endpoint."""
    take_over: bool = False
    """Take the run over from a driver that is known to be gone."""
    check_blocks: bool = False
    """Read every committed block and shard; those that do not read are made again."""
    quiet: bool = False
    """No progress lines."""
    failures: FailurePolicy = field(default_factory=FailurePolicy)


def drive(
    folder: RunFolder,
    config: JobConfig,
    options: RunOptions,
    then: Callable[[RunFolder], None] = lambda folder: None,
) -> bool:
    """Do everything that is left to do. True when the run is complete, False when it was asked to stop before.

    then: called with a complete run, while nobody else may write to it. LeaseHeldError when another driver works here,
    or took over; ForeignRunError when another changed what the run is since the folder was opened.
    """
    with Lease(folder.storage, take_over=options.take_over) as lease, stop_signal() as stopped:
        held = RunFolder.open(lease.storage)
        if canonical_json(asdict(held.info)) != canonical_json(asdict(folder.info)):
            raise ForeignRunError(
                f"{held.storage.uri}: another driver changed this run just now; give the command again"
            )
        folder = held

        def stop() -> bool:
            lease.check()
            return stopped()

        folder.storage.sweep()
        folder.drop_stale_quarantine()
        try:
            complete = _advance(folder, config, options, stop)
        except CorruptDataError as error:
            # An unreadable block counts as missing: look at every block, and make again what does not read.
            log.warning("%s; every block is checked now", error)
            complete = _advance(folder, config, replace(options, check_blocks=True), stop)
        if complete:
            then(folder)
        return complete


def _advance(folder: RunFolder, config: JobConfig, options: RunOptions, stop: Callable[[], bool]) -> bool:
    runtime = _start(folder, config, options)
    try:
        while True:
            chains = resolve_chains(folder, config)
            if not _make_units(folder, chains, config, options, runtime, stop):
                return False
            if not _settle_barriers(folder, chains):
                break
        ranges = shard_ranges(folder, config.pack)
        unpacked = [i for i, units in enumerate(ranges) if not _packed(folder, chains, config, i, units, options)]
        if not runtime.pack_shards(unpacked, stop):
            return False
        write_index(folder, len(ranges))
        return True
    except FileNotFoundError as error:
        raise CorruptDataError(f"{error}: missing, though a later one is there") from error
    finally:
        runtime.close()


def _start(folder: RunFolder, config: JobConfig, options: RunOptions) -> Runtime:
    if options.asking_units < 1:
        raise InputError(f"{options.asking_units}", field="--asking-units", expected="at least 1")
    if not options.failures.unit_limit_s >= 0:
        raise InputError(f"{options.failures.unit_limit_s}", field="--failures.unit-limit-s", expected="0 or more")
    work = Work(folder, config, options.failures, options.schedule, options.asking_units)
    if options.runtime == "ray":
        require_ray()
        from pipelines.runtime.ray import RayRuntime

        return RayRuntime(work)
    return LocalRuntime(work)


def settled_depth(steps: list[Step]) -> int:
    """Index of the last step whose key is known; -1 for none."""
    return sum(step.settled for step in steps) - 1


def _make_units(
    folder: RunFolder,
    chains: dict[str, list[Step]],
    config: JobConfig,
    options: RunOptions,
    runtime: Runtime,
    stop: Callable[[], bool],
) -> bool:
    tasks: list[UnitTask] = []
    stages: dict[str, StageProgress] = {}
    for subset, steps in chains.items():
        units = folder.units(subset)
        upto = settled_depth(steps)
        if options.check_blocks:
            _discard_broken_blocks(folder, steps[: upto + 1], units)
        committed = [folder.committed_units(step.name, step.key) for step in steps[: upto + 1]]
        for step, done in zip(steps, committed, strict=False):
            progress = stages.setdefault(step.name, StageProgress(step.name, 0))
            progress.total += len(units)
            progress.already += len(done.intersection(units))
        for unit in units:
            first = next((i for i, done in enumerate(committed) if unit not in done), None)
            if first is not None:
                tasks.append(UnitTask(unit, steps, upto, first))
    shards = _ShardWatch(tasks, config, complete=all(step.settled for steps in chains.values() for step in steps))
    packed_before = set(folder.storage.names("shards"))
    for index, unit in {task.unit // config.pack.units_per_shard: task.unit for task in tasks}.items():
        # Blocks may come out otherwise this time (a row in quarantine may not fail again): the shard is out of date.
        if packed_before.intersection((shard_name(index), sidecar_name(index))):
            drop_shard_of(folder, config.pack, unit)
    with Progress(list(stages.values()), quiet=options.quiet or not tasks) as progress:
        return runtime.make_units(tasks, progress, shards.complete_with, stop)


def _settle_barriers(folder: RunFolder, chains: dict[str, list[Step]]) -> bool:
    """Compute the barriers whose upstream is complete now. True when there was one, so that there is more to do."""
    settled = False
    for subset, steps in chains.items():
        waiting = next((step for step in steps if step.barrier_path), None)
        if waiting is None or waiting.link.barrier is None or waiting.barrier_path is None:
            continue
        before = steps[waiting.index - 1]
        value = waiting.link.barrier(_rows(folder, before, folder.units(subset)))
        folder.write_checked(waiting.barrier_path, value)
        settled = True
    return settled


def _rows(folder: RunFolder, step: Step, units: Iterable[int]) -> Iterator[PromptRow]:
    for unit in units:
        yield from folder.read_block(step.name, step.key, unit)[1]


class _ShardWatch:
    """Knows which shard is complete with a unit. complete: every key is known, so that last blocks are last."""

    def __init__(self, tasks: Sequence[UnitTask], config: JobConfig, *, complete: bool) -> None:
        self.units_per_shard = config.pack.units_per_shard
        self.missing: dict[int, set[int]] = {}
        for task in tasks if complete else ():
            self.missing.setdefault(task.unit // self.units_per_shard, set()).add(task.unit)

    def complete_with(self, unit: int) -> int | None:
        """A unit's last block is committed: the shard that has all its units now, if it is this unit's."""
        index = unit // self.units_per_shard
        if index not in self.missing:
            return None
        self.missing[index].discard(unit)
        return None if self.missing[index] else index


def _discard_broken_blocks(folder: RunFolder, steps: Sequence[Step], units: Sequence[int]) -> None:
    """Remove blocks that do not read, images included, or that were made from other rows than those before them: then
    they are missing, and made again."""
    for unit in units:
        upstream: str | None = hash_rows(folder.prompts(unit))
        for step in steps:
            try:
                footer, rows = folder.read_block(step.name, step.key, unit)
                if step.link.stage.makes_images:
                    folder.with_images(rows, step.name, step.key, unit)
                if upstream is not None and footer.input_hash != upstream:
                    path = folder.block_path(step.name, step.key, unit)
                    raise CorruptDataError(f"{path}: made from other rows than those before it")
                upstream = footer.rows_hash
            except FileNotFoundError:
                upstream = None
            except CorruptDataError as error:
                log.warning("%s; it is made again", error)
                folder.delete_block(step.name, step.key, unit)
                upstream = None


def _packed(
    folder: RunFolder,
    chains: dict[str, list[Step]],
    config: JobConfig,
    index: int,
    units: range,
    options: RunOptions,
) -> bool:
    inputs = shard_inputs(folder, chains, config.pack, units)
    if options.check_blocks and not reads_as_packed(folder, index, inputs, units):
        return False
    return packed(folder, index, inputs)
