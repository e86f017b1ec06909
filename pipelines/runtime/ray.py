"""The Ray runtime: a pool of actors for each stage. Units flow from pool to pool through committed blocks, so neither
the driver nor Ray's object store ever carries an image, and any process or node may die at any moment.

Ray does what an engine does: places actors on CPUs and GPUs, restarts them, moves them to other nodes, retries calls.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from pipelines.run_folder import RunFolder
from pipelines.runtime import given_up
from pipelines.runtime.progress import Progress, format_seconds
from pipelines.runtime.ray_pool import LOST, BlockReport, Call, Pool, actor_states, get
from pipelines.runtime.runtime import UnitTask, Work, stage_order, waves
from pipelines.runtime.watch import Limits, WatchedTime
from pipelines.served_vlms import served_vlms
from pipelines.stage import Step, Workers
from schemas.errors import CorruptDataError, WorkFailedError
from schemas.own_modules import IMPORT_FOLDER
from trainers.ray_cluster import join

log = logging.getLogger(__name__)
WARN_EVERY_S = 60.0
LOOK_EVERY_S = 5.0
UNITS_LOST = 3
"""So many units that no worker came back with, and none in between that one did: the stage is to blame."""


def pack(folder: RunFolder, config: JobConfig, index: int) -> None:
    """Pack one shard, on whatever node has a CPU."""
    pack_shard(folder, resolve_chains(folder, config), config.pack, index, shard_ranges(folder, config.pack)[index])


class RayRuntime:
    """See `Runtime`. Connects to RAY_ADDRESS, or to the cluster of the submitted job, or starts a local one."""

    def __init__(self, work: Work) -> None:
        self.work, self.limits = work, Limits(work.policy)
        self.started_here = not ray.is_initialized()
        if self.started_here:
            connect()

    def make_units(
        self,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
    ) -> bool:
        """See `Runtime`."""
        if self.work.schedule == "streaming":
            return _Flow(self.work, tasks, progress, shard_complete_with, stop, self.limits).run()
        ends = {task.unit: task.upto for task in tasks}
        for wave in waves(tasks):
            last = {task.unit for task in wave if task.upto == ends[task.unit]}

            def complete(unit: int, last: set[int] = last) -> int | None:
                return shard_complete_with(unit) if unit in last else None

            if not _Flow(self.work, wave, progress, complete, stop, self.limits).run():
                return False
        return True

    def pack_shards(self, indices: Sequence[int], stop: Callable[[], bool]) -> bool:
        """See `Runtime`."""
        remote = ray.remote(num_cpus=0.5, max_retries=5)(pack)
        packing = [remote.remote(self.work.folder, self.work.config, index) for index in indices]
        while packing:
            if stop():
                return False  # each appears whole or not at all
            ready, packing = ray.wait(packing, num_returns=1, timeout=1.0)
            for reference in ready:
                _packed(reference)
        return True

    def close(self) -> None:
        """Leave the cluster; end it when it was started here."""
        if self.started_here:
            ray.shutdown()


class _Flow:
    """Units on their way through pools of actors."""

    def __init__(
        self,
        work: Work,
        tasks: Sequence[UnitTask],
        progress: Progress,
        shard_complete_with: Callable[[int], int | None],
        stop: Callable[[], bool],
        limits: Limits,
    ) -> None:
        self.work, self.progress, self.stop, self.limits = work, progress, stop, limits
        self.shard_complete_with = shard_complete_with
        self.pools: dict[str, Pool] = {}
        self.queues: dict[str, deque[tuple[UnitTask, int]]] = {}
        self.in_flight: dict[Any, Call] = {}
        self.packing: list[Any] = []
        self.repairs: dict[int, int] = {}
        self.with_care = given_up.noted(work.folder)
        self.open = len(tasks)
        self.clock = WatchedTime()
        self.now = self.looked_at = self.warned_at = 0.0
        self.stopping = False
        stages: dict[str, Step] = {}
        for task in tasks:
            for step in task.steps[task.first : task.upto + 1]:
                stages.setdefault(step.loaded_as, step)
        order = [name for name, _ in stage_order(tasks)]
        stages = dict(sorted(stages.items(), key=lambda item: order.index(item[1].name)))
        self.largest = {"CPU": 0.0, "GPU": 0.0} | cluster_size()
        wanted = [with_clients(step, self.largest["GPU"]) for step in stages.values()]
        served = {vlm.server for step in stages.values() for vlm in served_vlms(step.link.config)}
        largest = max((workers.gpus for workers in wanted), default=0.0)
        for_vlms = sum(s.gpus_each * max(1, s.replicas) for s in served if s.gpus_each + largest > 1)  # not beside them
        counts = share_out(wanted, self.largest["CPU"], max(0.0, self.largest["GPU"] - for_vlms))
        for (key, step), workers, count in zip(stages.items(), wanted, counts, strict=True):
            self.queues[key] = deque()
            self.pools[key] = Pool(work, step, workers, count, limits)
        if self.pools:
            what = ", ".join(f"{len(pool.members)} {pool.name}" for pool in self.pools.values())
            progress.say(f"starting workers, which load their models: {what}")
        for task in tasks:
            self._enqueue(task, task.first)

    def run(self) -> bool:
        """True when every unit is through."""
        try:
            while self.open:
                self.now = self.clock.look()
                stopping = self.stop()
                self._look(just_stopped=stopping and not self.stopping)
                self.stopping = stopping
                if not stopping:
                    self._submit()
                elif not any(call.member.works for call in self.in_flight.values()):
                    return False
                if not self.in_flight:
                    time.sleep(0.1)  # no actor has a place yet
                    continue
                ready, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=1.0)
                for reference in ready:
                    self._finish(reference)
            for reference in self.packing:
                _packed(reference)
            return True
        finally:
            for pool in self.pools.values():
                pool.end()

    def _look(self, *, just_stopped: bool) -> None:
        """See what the actors are at, end those whose time is up, and once a minute say what takes long: nobody should
        wait in the dark."""
        if self.now - self.looked_at < min(LOOK_EVERY_S, WARN_EVERY_S) and not just_stopped:
            return
        self.looked_at = self.now
        states = actor_states()
        for pool in self.pools.values():
            pool.look(states, self.now)
            for call in pool.overdue(self.now):
                if call in self.in_flight.values():
                    self._end_worker_of(call)
        if just_stopped or self.now - self.warned_at >= WARN_EVERY_S:
            self.warned_at = self.now
            self._say_what_takes_long(0.0 if just_stopped else WARN_EVERY_S)

    def _say_what_takes_long(self, after_s: float) -> None:
        there = cluster_size()
        self.largest = {name: max(amount, there.get(name, 0)) for name, amount in self.largest.items()}
        asked = {
            "CPU": sum(len(pool.members) * pool.workers.cpus for pool in self.pools.values()),
            "GPU": sum(len(pool.members) * pool.workers.gpus for pool in self.pools.values()),
        }
        has_room = all(there.get(name, 0) >= amount for name, amount in asked.items())
        for pool in self.pools.values():
            if not has_room and not any(member.works for member in pool.members):
                log.warning(
                    "%s: none of its %d workers has a place yet; all stages' ask for %s, the cluster has %s. Fewer "
                    "--*.workers.count, or --schedule staged, or more nodes",
                    pool.name,
                    len(pool.members),
                    asked,
                    there,
                )
            elif sentence := pool.sentence(self.now, after_s):
                self.progress.say(sentence)
        if any(there.get(name, 0) < min(asked[name], amount) for name, amount in self.largest.items()):
            log.warning(
                "the cluster has lost nodes: it has %s, had %s, and the actors ask for %s. Some wait for a new node; "
                "stop and `resume` to go on with what is there",
                there,
                self.largest,
                asked,
            )

    def _end_worker_of(self, call: Call) -> None:
        """Its time is up. What else its worker was asked for is asked of another."""
        why = f"no answer within {format_seconds(self.limits.of(call.step.name))}"
        log.warning("%s: unit %d: %s; its worker is ended", call.step.name, call.task.unit, why)
        lost = [reference for reference, other in self.in_flight.items() if other.member is call.member]
        calls = [self.in_flight.pop(reference) for reference in lost]
        late = call.pool.overdue(self.now)
        call.pool.replace(call.member, self.now)
        for other in calls:
            if other in late:
                self._give_up(other, why)
            else:
                self.queues[other.step.loaded_as].appendleft((other.task, other.index))

    def _give_up(self, call: Call, why: str) -> None:
        """No worker came back with it. It is tried again, with care: see `given_up`."""
        step, unit = call.step, call.task.unit
        call.pool.lost_units.add(unit)
        if len(call.pool.lost_units) >= UNITS_LOST:
            raise WorkFailedError(
                f"{step.name}: no worker came back with {UNITS_LOST} units, one after the other; unit {unit}: {why}\n"
                f"  see logs/{step.name}-*.log in the run folder; `resume` tries again"
            )
        given_up.note(self.work.folder, step, unit, why)
        self.with_care.add((step.name, unit))
        self._enqueue(call.task, call.index)

    def _enqueue(self, task: UnitTask, index: int) -> None:
        self.queues[task.steps[index].loaded_as].append((task, index))

    def _submit(self) -> None:
        # The latest stages first, so that what is begun gets finished; a stage whose successor has more waiting than
        # its actors can take soon is held back.
        for key in reversed(list(self.pools)):
            pool, queue = self.pools[key], self.queues[key]
            while queue and (member := pool.free(self.now)) is not None:
                task, index = queue[0]
                if index < task.upto and self._crowded(task.steps[index + 1].loaded_as):
                    break
                queue.popleft()
                with_care = (task.steps[index].name, task.unit) in self.with_care
                reference, call = pool.call(member, task, index, with_care=with_care, now=self.now)
                self.in_flight[reference] = call

    def _crowded(self, key: str) -> bool:
        pool = self.pools[key]
        return len(self.queues[key]) > 4 * pool.calls * len(pool.members)

    def _finish(self, reference: Any) -> None:
        call = self.in_flight.pop(reference)
        task, index, step = call.task, call.index, call.step
        is_excused = call.is_excused or call.since is None
        waiting = [other for other in call.member.calls if other.since is None]
        call.pool.done(call, self.now)
        try:
            report: BlockReport = get(reference)
        except LOST as error:
            if is_excused:
                self._enqueue(task, index)
                return
            for other in waiting:
                other.is_excused = True
            log.warning("%s: unit %d brought its worker down again and again: %s", step.name, task.unit, error)
            why = f"its worker died again and again ({type(error).__name__}: {str(error).splitlines()[0]})"
            self._give_up(call, why)
            return
        call.pool.lost_units.clear()
        if report.upstream_broken is not None:
            self._repair(task, index, report.upstream_broken)
            return
        self.limits.saw(step.name, report.seconds)
        self.progress.add_counts(
            step.name, rejected=report.rejected, quarantined=report.quarantined, seconds=report.seconds
        )
        if index < task.upto:
            self._enqueue(task, index + 1)
            return
        self.open -= 1
        shard = self.shard_complete_with(task.unit)
        if shard is not None:
            remote = ray.remote(num_cpus=0.1, max_retries=5)(pack)
            self.packing.append(remote.remote(self.work.folder, self.work.config, shard))

    def _repair(self, task: UnitTask, index: int, problem: str) -> None:
        """The block before is broken: go back a step, if that has a pool in this flow; else the driver looks again."""
        self.repairs[task.unit] = self.repairs.get(task.unit, 0) + 1
        before = task.steps[index - 1]
        if index == 0 or before.loaded_as not in self.queues or self.repairs[task.unit] > len(task.steps):
            raise CorruptDataError(problem)
        log.warning("%s; it is made again", problem)
        self.work.folder.delete_block(before.name, before.key, task.unit)
        self._enqueue(task, index - 1)


def _packed(reference: Any) -> None:
    try:
        get(reference)
    except LOST as error:
        raise WorkFailedError(
            f"packing brought its worker down again and again: {error}\n  `resume` tries again"
        ) from error


def connect() -> None:
    """Join RAY_ADDRESS or the submitted job's cluster; without one, start a local one with more logical CPUs than
    cores, since most of a stage's time is one core's. See `trainers.ray_cluster.join`."""
    environment = {"PYTHONPATH": str(IMPORT_FOLDER), "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    join(environment, max(16, os.cpu_count() or 1))


def on_each_kind_of_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """function(*arguments, GPUs of the node) on one living node of each kind, all at once: results by a name of the
    node, a string where the call itself failed. Nodes without CPUs (heads that only manage) do no work."""
    started_here = not ray.is_initialized()
    if started_here:
        connect()
    kinds: dict[tuple[Any, ...], dict[str, Any]] = {}
    for node in ray.nodes():
        has = node["Resources"]
        accelerators = tuple(sorted(name for name in has if name.startswith("accelerator_type:")))
        if node["Alive"] and has.get("CPU", 0) >= 1:
            kinds.setdefault((has["CPU"], has.get("GPU", 0), accelerators), node)
    calls = {}
    for (cpus, gpus, _), node in kinds.items():
        here: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote: Any = ray.remote(num_cpus=1, num_gpus=min(1, gpus), max_retries=0, scheduling_strategy=here)(function)
        calls[f"{node['NodeManagerHostname']} ({cpus:g} CPUs, {gpus:g} GPUs)"] = remote.remote(*arguments, gpus)
    found: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            found[name] = ray.get(call)
        except RayError as error:
            found[name] = str(error)
    if started_here:
        ray.shutdown()
    return found


def cluster_size() -> dict[str, float]:
    """CPUs and GPUs of the nodes that are alive."""
    return {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}


def with_clients(step: Step, gpus: float) -> Workers:
    """A stage's workers; of one that asks a vLLM and leaves their count open, one for each that the cluster may have,
    so that each of these has enough to do."""
    workers = step.link.workers
    if workers.count or not step.link.is_client:
        return workers
    servers = [vlm.server for vlm in served_vlms(step.link.config)]
    of_each = [server.replicas or (int(gpus / server.gpus_each) if server.gpus_each else 1) for server in servers]
    return replace(workers, count=max(1, *of_each) if of_each else 1)


def share_out(wanted: Sequence[Workers], cpus: float, gpus: float) -> list[int]:
    """Actors of each stage on a cluster of so many CPUs and GPUs: the asked count where there is one; those with count
    0 get one each, and then one more in turn while there is room."""

    def gpus_of(workers: Workers) -> float:
        # Actors that share a GPU share one, not the rests of several.
        return 1 / int(1 / workers.gpus) if 0 < workers.gpus < 1 else workers.gpus

    counts = [workers.count or 1 for workers in wanted]
    cpus -= sum(count * workers.cpus for count, workers in zip(counts, wanted, strict=True))
    gpus -= sum(count * gpus_of(workers) for count, workers in zip(counts, wanted, strict=True))
    growing = [index for index, workers in enumerate(wanted) if not workers.count and (workers.cpus or workers.gpus)]
    while growing:
        for index in list(growing):
            workers = wanted[index]
            if workers.cpus > cpus + 1e-9 or gpus_of(workers) > gpus + 1e-9:
                growing.remove(index)
                continue
            counts[index] += 1
            cpus -= workers.cpus
            gpus -= gpus_of(workers)
    return counts
