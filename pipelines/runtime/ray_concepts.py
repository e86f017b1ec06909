"""Concepts on Ray: a pool of actors, each with generator and teacher; a concept is one call, and safe to repeat."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from pipelines.distill import STOP, ConceptOutcome, Named, make_worker
from pipelines.runtime.progress import format_seconds
from pipelines.runtime.ray import connect
from pipelines.runtime.watch import SAY_EVERY_S
from pipelines.stage import Workers
from schemas.errors import ReflectionFlowError, StoppedError
from schemas.terminal import say_error
from trainers.dual_process_config import DualProcessConfig


class ConceptActor:
    """One worker. A killed one is started again and goes on from the concept's checkpoint."""

    def __init__(self, out: str, config: DualProcessConfig, drawing_flags: str) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
        self._worker = make_worker(out, config, drawing_flags)

    def make(self, named: Named) -> ConceptOutcome:
        """See `ConceptWorker.make`."""
        return self._worker.make(named)


def distill_on_ray(
    out: Path,
    config: DualProcessConfig,
    workers: Workers,
    concepts: Sequence[Named],
    stop: Callable[[], bool],
    drawing_flags: str = "",
) -> Iterator[ConceptOutcome]:
    """Outcomes as they come. `out` and the concepts' files lie where every node finds them. stop: nothing more is
    handed out, and what is at hand is left with a checkpoint."""
    started_here = not ray.is_initialized()
    if started_here:
        connect()
    (out / STOP).unlink(missing_ok=True)
    try:
        count = min(len(concepts), workers.count or int(_room_for(workers)))
        remote: Any = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=-1, max_task_retries=20)(
            ConceptActor
        )
        pool: Any = ActorPool([remote.remote(str(out), config, drawing_flags) for _ in range(max(1, count))])
        waiting = [Named(one.file.resolve(), one.name) for one in concepts]
        heard = said = time.monotonic()
        while waiting or pool.has_next():
            while waiting and pool.has_free() and not stop():
                pool.submit(lambda actor, named: actor.make.remote(named), waiting.pop(0))
            if not pool.has_next():
                return
            if stop():
                (out / STOP).touch()
            try:
                outcome = pool.get_next_unordered(timeout=1.0)
                heard = said = time.monotonic()
                yield outcome
            except TimeoutError:
                if time.monotonic() - said >= SAY_EVERY_S:
                    said = time.monotonic()
                    say_error(f"{count} workers, the last concept {format_seconds(said - heard)} ago")
            except RayActorError as error:
                yield ConceptOutcome("?", "", "failed", f"its worker died again and again: {error}")
            except RayTaskError as error:
                if not isinstance(error.cause, StoppedError):
                    raise (error.cause if isinstance(error.cause, ReflectionFlowError) else error) from None
    finally:
        (out / STOP).unlink(missing_ok=True)
        if started_here:
            ray.shutdown()


def _room_for(workers: Workers) -> float:
    """How many workers the cluster has room for, at least one."""
    has = ray.cluster_resources()
    room = [has.get("CPU", 0) / workers.cpus] if workers.cpus else []
    room += [has.get("GPU", 0) / workers.gpus] if workers.gpus else []
    return max(1.0, min(room, default=1.0))
