"""The workers of one stage on Ray: actors that load its models and make units' blocks, and what is known of each."""

import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.util.metrics import Counter, Histogram

from inference.vlm.vllm_server import serve_with, started_when_opened
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.runtime.progress import format_seconds
from pipelines.runtime.runtime import UnitTask, Work
from pipelines.runtime.unit_worker import UnitWorker
from pipelines.runtime.vlm_deployment import ServedVlm, Serving
from pipelines.runtime.watch import Limits
from pipelines.stage import Step, Workers
from schemas.errors import CorruptDataError, ReflectionFlowError, WorkFailedError
from schemas.terminal import PlainFormatter, guard_terminal

log = logging.getLogger(__name__)
SHORT_S = 5.0
"""Units of a stage that all took less have the next call waiting at the actor already. Longer ones do not: when the run
is stopped, what waits there would have to be done, too."""
CRASHES_PER_UNIT = 20
"""A unit that brought its worker down so often is given up for the first time. Calls that were lost with a node count
as well."""
CRASHES_WITH_CARE = 3
"""The same of a unit that was given up before."""
LOST = (RayActorError, OutOfMemoryError, WorkerCrashedError)
"""What Ray says of a call whose worker died more often than that."""


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
        """Load this stage's models, and have its VLMs deployed, before there is a unit for them."""
        with started_when_opened():
            self.worker.stage(self.step)

    def make(self, steps: list[Step], index: int, unit: int, with_care: bool) -> BlockReport:
        """Make a unit's block of a step of this stage. Safe to repeat: a block that is there is left as it is.
        with_care: no worker came back with it before."""
        step = steps[index]
        if with_care:
            self.worker.with_care.add((step.name, unit))
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


@dataclass(eq=False)
class Member:
    """An actor of a pool. ready, loading: what it has not answered yet. since: it is at that (of the watched time).
    state: Ray's word for it."""

    actor: Any
    ready: Any
    loading: Any
    since: float
    calls: "list[Call]" = field(default_factory=list)
    state: str = "PENDING_CREATION"
    restarts: int = 0

    @property
    def works(self) -> bool:
        """It has a process somewhere."""
        return self.state == "ALIVE"


@dataclass(eq=False)
class Call:
    """A unit's step that a member is asked for. since: it is at work on it; None: it waits behind others. is_excused:
    another brought the worker down that it waited for."""

    task: UnitTask
    index: int
    pool: "Pool"
    member: Member
    since: float | None = None
    is_excused: bool = False

    @property
    def step(self) -> Step:
        return self.task.steps[self.index]


class Pool:
    """The actors of one stage. now: seconds of `WatchedTime`."""

    def __init__(self, work: Work, step: Step, workers: Workers, count: int, limits: Limits) -> None:
        self.work, self.step, self.workers, self.limits = work, step, workers, limits
        self.name, self.at_once = step.name, work.units_at_once(step)
        self.lost_units: set[int] = set()
        """That no worker came back with, since one came back with any."""
        plain: Any = ray.remote(StageActor)
        actor_class = plain.options(
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
            max_concurrency=self.at_once,
            max_restarts=-1,
            max_task_retries=CRASHES_PER_UNIT,
        )
        # Of a cluster of this machine's own, nobody else need reach the VLMs.
        host = "0.0.0.0" if os.environ.get("RAY_ADDRESS") else "127.0.0.1"
        serving = Serving(host, work.schedule == "staged" and step.link.is_client)
        self._start = lambda: actor_class.remote(work.folder, work.policy, work.config.num_threads, step, serving)
        # All stages load at once: models that were loaded for the first unit would hold back every stage before them.
        self.members = [self._member(0.0) for _ in range(count)]

    def _member(self, now: float) -> Member:
        actor = self._start()
        return Member(actor, actor.__ray_ready__.remote(), actor.load.remote(), now)

    @property
    def calls(self) -> int:
        """That each member may have."""
        return self.at_once + (self.limits.slowest.get(self.name, SHORT_S) < SHORT_S)

    def free(self, now: float) -> Member | None:
        """The member with the fewest calls, None when all have enough. One that has no place in the cluster yet gets
        none: they would wait with it while others are idle."""
        self._settle(now)
        idle = [member for member in self.members if member.ready is None and member.loading is None]
        member = min(idle, key=lambda m: len(m.calls), default=None)
        return member if member is not None and len(member.calls) < self.calls else None

    def _settle(self, now: float) -> None:
        """See who has come up, and who has loaded. WorkFailedError where that brings workers down."""
        waiting = {member.ready: member for member in self.members if member.ready is not None}
        for reference in _ready(waiting):
            waiting[reference].ready = None
            waiting[reference].since = now
        loading = {member.loading: member for member in self.members if member.loading is not None}
        for reference in _ready(loading):
            loading[reference].loading = None
            try:
                get(reference)
            except LOST as error:
                raise WorkFailedError(
                    f"{self.name}: loading its models brought its worker down {CRASHES_PER_UNIT} times: {error}\n"
                    f"  see logs/{self.name}-*.log in the run folder; `resume` tries again"
                ) from error

    def call(self, member: Member, task: UnitTask, index: int, *, with_care: bool, now: float) -> tuple[Any, Call]:
        """Have a member make a unit's block of one step."""
        make = member.actor.make
        if with_care:
            make = make.options(max_task_retries=CRASHES_WITH_CARE - 1)
        call = Call(task, index, self, member, now if len(member.calls) < self.at_once else None)
        member.calls.append(call)
        return make.remote(list(task.steps), index, task.unit, with_care), call

    def done(self, call: Call, now: float) -> None:
        """It came back."""
        call.member.calls.remove(call)
        for waiting in call.member.calls[: self.at_once]:
            waiting.since = now if waiting.since is None else waiting.since

    def look(self, states: dict[str, tuple[str, int]], now: float) -> None:
        """What Ray says of the actors: no time passes for one that has no place, and one that was started again begins
        anew."""
        self._settle(now)
        for member in self.members:
            unknown = ("ALIVE" if member.ready is None else member.state, member.restarts)
            state, restarts = states.get(member.actor._actor_id.hex(), unknown)
            if state != "ALIVE" or (state, restarts) != (member.state, member.restarts):
                member.since = now
                for call in member.calls:
                    call.since = None if call.since is None else now
            member.state, member.restarts = state, restarts

    def overdue(self, now: float) -> list[Call]:
        """Calls whose time is up. WorkFailedError where that of loading is."""
        limit = self.limits.of(self.name)
        for member in self.members:
            is_loading = member.works and member.loading is not None
            if is_loading and now - member.since > self.limits.of(self.name, loading=True):
                raise WorkFailedError(
                    f"{self.name}: a worker has been loading its models for {format_seconds(now - member.since)}\n"
                    f"  see logs/{self.name}-*.log in the run folder; `resume` tries again"
                )
        calls = [call for member in self.members if member.works for call in member.calls]
        return [call for call in calls if call.since is not None and now - call.since > limit]

    def replace(self, member: Member, now: float) -> None:
        """End a member, whatever it is at, and start another in its place."""
        ray.kill(member.actor, no_restart=True)
        self.members[self.members.index(member)] = self._member(now)

    def sentence(self, now: float, after_s: float) -> str:
        """What its members are at, "" where all of it is younger than so many seconds."""
        unplaced = [member for member in self.members if not member.works]
        loading = [now - m.since for m in self.members if m.works and m.loading is not None]
        calls = [call for member in self.members if member.works for call in member.calls]
        began = sorted((call.since, call.task.unit) for call in calls if call.since is not None)
        if not unplaced and not any(s >= after_s for s in loading) and not any(now - b >= after_s for b, _ in began):
            return ""
        parts = []
        if began:
            units = ", ".join(f"unit {unit} for {format_seconds(now - since)}" for since, unit in began[:3])
            parts.append("at work on " + units + (f" and {len(began) - 3} more" if len(began) > 3 else ""))
        if loading:
            parts.append(f"{len(loading)} loading its models for {format_seconds(max(loading))}")
        if unplaced:
            parts.append(f"{len(unplaced)} being started, or without a place")
        return f"{self.name}: {len(self.members)} workers: {'; '.join(parts)}"

    def end(self) -> None:
        """End the actors; what they were at is not committed and is done again."""
        for member in self.members:
            ray.kill(member.actor)


def actor_states() -> dict[str, tuple[str, int]]:
    """Ray's word for the state of every actor, and how often it was started again, by the actor's id. Empty where Ray
    does not say."""
    # The public way asks the dashboard, which a local cluster does not have.
    from ray._private.state import actors

    try:
        return {name: (entry["State"], entry["NumRestarts"]) for name, entry in actors().items()}
    except Exception as error:  # only what is said of them, and for how long they may work, hangs on it
        log.info("Ray does not say what its actors are at: %s", error)
        return {}


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


def get(reference: Any) -> Any:
    """A result, with our own errors as they were raised. `LOST` where no worker came back; WorkFailedError for whatever
    else went wrong."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ReflectionFlowError):
            raise cause from error
        log.error("%s", error)
        raise WorkFailedError(
            f"a worker ended its work: {type(cause).__name__}: {cause}\n"
            f"  the traceback is in logs/run.log of the run folder; `resume` tries again"
        ) from error
    except LOST:
        raise
    except RayError as error:
        raise WorkFailedError(f"Ray: {type(error).__name__}: {error}\n  mend that, then `resume`") from error


def _ready(references: Iterable[Any]) -> list[Any]:
    """Those that need no waiting for."""
    waiting = list(references)
    return ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []
