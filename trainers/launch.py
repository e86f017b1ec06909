"""One training on one process or many: Ray Train starts the workers and starts them again when one is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from schemas.errors import InputError, ReflectionFlowError, WorkFailedError
from schemas.stop_signal import stop_signal
from trainers.checkpoint import Checkpoints, storing
from trainers.ray_cluster import join, require_ray

if TYPE_CHECKING:
    from trainers.loop import LoopConfig, Rank, TrainingLoop

log = logging.getLogger(__name__)
STOP = "stop-request"
"""In a training's folder: its workers write a checkpoint after the step at hand, and end."""
T = TypeVar("T", bound="HasLoop")


class HasLoop(Protocol):
    """The configuration of a training."""

    @property
    def loop(self) -> LoopConfig: ...


@dataclass(frozen=True)
class LaunchConfig:
    """How a training is started and spread. On another number of workers it sums gradients in another order."""

    workers: int = 1
    """Processes; more than one run under Ray Train (RAY_ADDRESS, or a cluster started for the training). The batch is
    shared out among them."""
    cpus_per_worker: float = 1.0
    """Cores that Ray reserves for each of several workers."""
    gpus_per_worker: float = 0.0
    """GPUs, or a share of one, that Ray reserves for each of several workers; 0: none."""
    max_failures: int = 3
    """Times that lost workers are started again; each time the training goes on from its last checkpoint."""
    resume: bool = False
    """Go on from a checkpoint or not at all. Without the flag a training goes on where there is one and else begins."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.max_failures < 0:
            raise InputError(f"{self.workers} workers, {self.max_failures} failures", expected="at least 1 and 0")


def launch(open_training: Callable[[T, Rank], TrainingLoop], config: T, out: Path, spread: LaunchConfig) -> None:
    """Train to the end, from the last checkpoint if there is one. out: where the training's checkpoints lie; with
    workers on several nodes, a place they share.

    The first SIGINT or SIGTERM: StoppedError after the step at hand, with a checkpoint.
    WorkFailedError when workers are lost more often than `max_failures`. An error of ours in a worker (bad input, a
    loss that is no number) would come again: it ends the training at once, as on one worker. InputError where there is
    nothing to resume."""
    from trainers.loop import ALONE

    if (out / "run.json").exists():
        raise InputError("is a run's folder", file=str(out), field="--out", expected="a folder for this training alone")
    checkpoints = out / "checkpoints"
    if spread.resume and not Checkpoints(checkpoints).steps():
        raise InputError(
            f"no checkpoint in {checkpoints}", field="--resume", expected="the --out of a training, or no --resume"
        )
    with stop_signal("the step") as stop, storing(out), _interrupted(checkpoints):
        if spread.workers == 1:
            open_training(config, ALONE).run(stop=stop)
        else:
            config.loop.check(spread.workers)  # said here, not in a worker's log
            _on_workers(open_training, config, out, spread, stop)


@contextmanager
def _interrupted(checkpoints: Path) -> Iterator[None]:
    """Inside, whoever stops a training at once hears whether anything of it is kept."""
    try:
        yield
    except KeyboardInterrupt:
        steps = Checkpoints(checkpoints).steps()
        kept = (
            f"goes on from the checkpoint of step {max(steps)}" if steps else "begins anew: there is no checkpoint yet"
        )
        raise KeyboardInterrupt(f"interrupted; the same command {kept}") from None


def _on_workers(
    open_training: Callable[[T, Rank], TrainingLoop],
    config: T,
    out: Path,
    spread: LaunchConfig,
    stop: Callable[[], bool],
) -> None:
    require_ray()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    if not ray.is_initialized():
        join({}, log_to_driver=True)
    stop_file = out.absolute() / STOP
    stop_file.unlink(missing_ok=True)
    resources = {"CPU": spread.cpus_per_worker}
    if spread.gpus_per_worker:
        resources["GPU"] = spread.gpus_per_worker
    for num_lost in range(spread.max_failures + 1):
        trainer = TorchTrainer(
            _work,
            train_loop_config={"open_training": open_training, "config": config, "stop_file": stop_file},
            scaling_config=ScalingConfig(
                num_workers=spread.workers, use_gpu=spread.gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(out.absolute()),
                failure_config=FailureConfig(max_failures=0),  # Ray starts workers again whatever their error was
            ),
        )
        try:
            with _passed_on(stop, stop_file):
                _in_a_thread(trainer.fit)
            return
        except WorkerGroupError as error:
            for _, failure in sorted(error.worker_failures.items()):
                ours = getattr(failure, "_base_exc", failure)  # Ray wraps what a worker raises
                if isinstance(ours, ReflectionFlowError):
                    raise ours from None
            if num_lost == spread.max_failures:
                raise _ended(error) from error
            log.warning("workers were lost and are started again: %s", str(error)[-500:])
        except Exception as error:
            raise _ended(error) from error


def _in_a_thread(work: Callable[[], object]) -> None:
    """Do it where no signal arrives, and wait: in the main thread Ray Train would put its own handler over ours, and
    Ctrl-C would end the workers before their step has a checkpoint."""
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    doing = threading.Thread(target=do, daemon=True)
    doing.start()
    while doing.is_alive():
        doing.join(0.2)
    if raised:
        raise raised[0]


@contextmanager
def _passed_on(stop: Callable[[], bool], stop_file: Path) -> Iterator[None]:
    """Inside, workers find the file once this process was asked to stop."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            if stop():
                stop_file.touch()
                return

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
        stop_file.unlink(missing_ok=True)


def _ended(error: Exception) -> WorkFailedError:
    return WorkFailedError(
        f"the workers ended: {type(error).__name__}: {str(error)[-1500:]}\n"
        f"  mend that; the same command goes on from the last checkpoint"
    )


def _work(settings: dict[str, Any]) -> None:
    """What each worker does; Ray Train has set up the process group."""
    import ray.train

    from trainers.loop import Rank

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    settings["open_training"](settings["config"], rank).run(stop=settings["stop_file"].exists)
