"""The Ray runtime: a pool of actors for each stage. Units flow from pool to pool through committed blocks, so neither
the driver nor Ray's object store ever carries an image, and any process or node may die at any moment.

Ray does what an engine does: places actors on CPUs and GPUs, restarts them, moves them to other nodes, retries calls.
"""

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.metrics import Counter, Histogram
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from inference.vlm.vllm_server import serve_with
from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import pack_shard, shard_ranges
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.progress import Progress
from pipelines.runtime.runtime import UnitTask, Work, stage_order, waves
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.runtime.vlm_deployment import ServedVlm, Serving
from pipelines.served_vlms import served_vlms
from pipelines.stage import Step, Workers
from schemas.errors import CorruptDataError, ReflectionFlowError, WorkFailedError
from schemas.terminal import PlainFormatter, guard_terminal

log = logging.getLogger(__name__)
CALLS_AHEAD = 2
"""Calls waiting at each actor: one works (or as many as it has under way), the next is there already."""
CRASHES_PER_UNIT = 20
"""A unit that brought its worker down so often stops the run: it is named instead of being tried for ever. Calls that
were lost with a node count as well."""
WARN_EVERY_S = 60.0
_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True)
class BlockReport:
    """What an actor says of a block. upstream_broken: the block before it is missing or does not read."""

    rejected: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    upstream_broken: str | None = None


class StageActor:
    """One worker of one stage."""

    def __init__(
        self, folder: RunFolder, policy: FailurePolicy, num_threads: int, step: Step, serving: Serving
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it lets the block at hand be finished
        serve_with(partial(ServedVlm, serving))
        self.step, self.folder = step, folder
        self.worker = UnitWorker(folder, policy, num_threads)
        tags = {"stage": step.name}
        self.made = Counter("reflectionflow_units", "units made", tag_keys=("stage",))
        self.seconds = Histogram(
            "reflectionflow_unit_seconds", "seconds a unit", boundaries=[0.1, 1, 10, 60, 600], tag_keys=("stage",)
        )
        self.made.set_default_tags(tags)
        self.seconds.set_default_tags(tags)
        log_to_run(folder, step.name)

    def load(self) -> None:
        """Load this stage's models, before there is a unit for them."""
        self.worker.stage(self.step)

    def make(self, steps: list[Step], index: int, unit: int) -> BlockReport:
        """Make a unit's block of a step of this stage. Safe to repeat: a block that is there is left as it is."""
        step = steps[index]
        started = time.time()
        try:
            rows = self.worker.make_block(steps, index, unit)
        except (FileNotFoundError, CorruptDataError) as error:
            return BlockReport(upstream_broken=str(error))
        seconds = time.time() - started
        self.made.inc()
        self.seconds.observe(seconds)
        self.worker.stats.flush()
        return BlockReport(
            rejected=sum(r.rejection is not None and r.rejection.stage == step.name for r in rows),
            quarantined=sum(r.quarantine is not None and r.quarantine.stage == step.name for r in rows),
            seconds=seconds,
        )


def pack(folder: RunFolder, config: JobConfig, index: int) -> None:
    """Pack one shard, on whatever node has a CPU."""
    pack_shard(folder, resolve_chains(folder, config), config.pack, index, shard_ranges(folder, config.pack)[index])


class RayRuntime:
    """See `Runtime`. Connects to RAY_ADDRESS, or to the cluster of the submitted job, or starts a local one."""

    def __init__(self, work: Work) -> None:
        self.work = work
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
            return _Flow(self.work, tasks, progress, shard_complete_with, stop).run()
        ends = {task.unit: task.upto for task in tasks}
        for wave in waves(tasks):
            last = {task.unit for task in wave if task.upto == ends[task.unit]}

            def complete(unit: int, last: set[int] = last) -> int | None:
                return shard_complete_with(unit) if unit in last else None

            if not _Flow(self.work, wave, progress, complete, stop).run():
                return False
        return True

    def pack_shards(self, indices: Sequence[int], stop: Callable[[], bool]) -> bool:
        """See `Runtime`."""
        remote = ray.remote(num_cpus=0.5, max_retries=5)(pack)
        for reference in [remote.remote(self.work.folder, self.work.config, index) for index in indices]:
            _get(reference)
        return not stop()

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
    ) -> None:
        self.work, self.progress, self.stop = work, progress, stop
        self.shard_complete_with = shard_complete_with
        self.pools: dict[str, _Pool] = {}
        self.queues: dict[str, deque[tuple[UnitTask, int]]] = {}
        self.in_flight: dict[Any, tuple[UnitTask, int, _Pool, Any]] = {}
        self.packing: list[Any] = []
        self.repairs: dict[int, int] = {}
        self.open = len(tasks)
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
            self.pools[key] = _Pool(work, step, workers, count)
        for task in tasks:
            self._enqueue(task, task.first)
        self.warned_at = time.time()

    def run(self) -> bool:
        """True when every unit is through."""
        try:
            while self.open:
                stopping = self.stop()
                if not stopping:
                    self._submit()
                elif not self.in_flight:
                    return False
                self._warn_of_waiting()
                if not self.in_flight:
                    time.sleep(0.1)  # no actor has a place yet
                    continue
                ready, _ = ray.wait(list(self.in_flight), num_returns=1, timeout=1.0)
                for reference in ready:
                    self._finish(reference)
            for reference in self.packing:
                _get(reference)
            return True
        finally:
            for pool in self.pools.values():
                pool.end()

    def _warn_of_waiting(self) -> None:
        """Once a minute, say which stages have no actor with a place in the cluster, and whether it has lost nodes that
        they need: nobody should wait in the dark."""
        if time.time() - self.warned_at < WARN_EVERY_S:
            return
        self.warned_at = time.time()
        there = cluster_size()
        for pool in self.pools.values():
            if len(pool.unplaced) == len(pool.actors):
                log.warning(
                    "%s: none of its %d actors has a place yet; the cluster has %s. Fewer --*.workers.count, or "
                    "--schedule staged, or more nodes",
                    pool.name,
                    len(pool.actors),
                    there,
                )
        self.largest = {name: max(amount, there.get(name, 0)) for name, amount in self.largest.items()}
        asked = {
            "CPU": sum(len(pool.actors) * pool.workers.cpus for pool in self.pools.values()),
            "GPU": sum(len(pool.actors) * pool.workers.gpus for pool in self.pools.values()),
        }
        if any(there.get(name, 0) < min(asked[name], amount) for name, amount in self.largest.items()):
            log.warning(
                "the cluster has lost nodes: it has %s, had %s, and the actors ask for %s. Some wait for a new node; "
                "stop and `resume` to go on with what is there",
                there,
                self.largest,
                asked,
            )

    def _enqueue(self, task: UnitTask, index: int) -> None:
        self.queues[task.steps[index].loaded_as].append((task, index))

    def _submit(self) -> None:
        # The latest stages first, so that what is begun gets finished; a stage whose successor has more waiting than
        # its actors can take soon is held back.
        for key in reversed(list(self.pools)):
            pool, queue = self.pools[key], self.queues[key]
            while queue and (actor := pool.free()) is not None:
                task, index = queue[0]
                if index < task.upto and self._crowded(task.steps[index + 1].loaded_as):
                    break
                queue.popleft()
                self.in_flight[pool.call(actor, task, index)] = (task, index, pool, actor)

    def _crowded(self, key: str) -> bool:
        pool = self.pools[key]
        return len(self.queues[key]) > 4 * pool.calls * len(pool.actors)

    def _finish(self, reference: Any) -> None:
        task, index, pool, actor = self.in_flight.pop(reference)
        pool.done(actor)
        step = task.steps[index]
        try:
            report: BlockReport = _get(reference)
        except RayActorError as error:
            raise WorkFailedError(
                f"{step.name}: unit {task.unit} brought its worker down {CRASHES_PER_UNIT} times: {error}\n"
                f"  see logs/{step.name}-*.log in the run folder; `resume` tries again"
            ) from error
        if report.upstream_broken is not None:
            self._repair(task, index, report.upstream_broken)
            return
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


class _Pool:
    """The actors of one stage."""

    def __init__(self, work: Work, step: Step, workers: Workers, count: int) -> None:
        self.name, self.workers = step.name, workers
        at_once = work.units_at_once(step)
        self.calls = CALLS_AHEAD + at_once - 1
        plain: Any = ray.remote(StageActor)
        actor_class = plain.options(
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            max_concurrency=at_once,
            max_restarts=-1,
            max_task_retries=CRASHES_PER_UNIT,
        )
        # Of a cluster of this machine's own, nobody else need reach the VLMs.
        host = "0.0.0.0" if os.environ.get("RAY_ADDRESS") else "127.0.0.1"
        serving = Serving(host, work.schedule == "staged" and step.link.is_client)
        self.actors: list[Any] = [
            actor_class.remote(work.folder, work.policy, work.config.num_threads, step, serving) for _ in range(count)
        ]
        self.waiting = dict.fromkeys(self.actors, 0)
        # An actor that has no place in the cluster yet gets no calls: they would wait with it while others are idle.
        self.unplaced = {actor.__ray_ready__.remote(): actor for actor in self.actors}
        # All stages load at once: models that were loaded for the first unit would hold back every stage before them.
        self.loading = {actor.load.remote(): actor for actor in self.actors}

    def free(self) -> Any | None:
        """The actor with the fewest calls, None when all have enough."""
        for reference in _ready(self.unplaced):
            del self.unplaced[reference]
        for reference in _ready(self.loading):
            del self.loading[reference]
            try:
                _get(reference)
            except RayActorError as error:
                raise WorkFailedError(
                    f"{self.name}: loading its models brought its worker down {CRASHES_PER_UNIT} times: {error}\n"
                    f"  see logs/{self.name}-*.log in the run folder; `resume` tries again"
                ) from error
        idle = set(self.actors) - set(self.unplaced.values()) - set(self.loading.values())
        actor = min(idle, key=lambda a: self.waiting[a], default=None)
        return actor if actor is not None and self.waiting[actor] < self.calls else None

    def call(self, actor: Any, task: UnitTask, index: int) -> Any:
        """Have an actor make a unit's block of one step."""
        self.waiting[actor] += 1
        return actor.make.remote(list(task.steps), index, task.unit)

    def done(self, actor: Any) -> None:
        """A call came back."""
        self.waiting[actor] -= 1

    def end(self) -> None:
        """End the actors; what they were at is not committed and is done again."""
        for actor in self.actors:
            ray.kill(actor)


def connect() -> None:
    """Join RAY_ADDRESS or the submitted job's cluster; without one, start a local one with more logical CPUs than
    cores, since most of a stage's time is one core's."""
    environment = {"PYTHONPATH": _ROOT, "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    # Said explicitly, so that head, workers and later drivers agree; a cluster that is there keeps its own mode.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": environment})
        return
    ray.init(
        address="local",
        num_cpus=max(16, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )


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


def log_to_run(folder: RunFolder, stage: str) -> None:
    """A worker's log lines go to `logs/<stage>-<host>-<pid>.log` of a local run folder."""
    guard_terminal()
    root = getattr(folder.storage, "root", None)
    if root is None:
        return
    logs = Path(root) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(logs / f"{stage}-{os.uname().nodename}-{os.getpid()}.log")
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _ready(references: Iterable[Any]) -> list[Any]:
    """Those that need no waiting for."""
    waiting = list(references)
    return ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []


def _get(reference: Any) -> Any:
    """A result, with our own errors as they were raised."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ReflectionFlowError):
            raise cause from error
        raise
