"""The loop that all trainers on shards share: batches in order, one optimizer step each, curves, checkpoints, resume.

A trainer says what its losses are (`Trainable`); everything that must survive a kill is here. Sample n of a training is
always the same, so a training that was killed goes on with the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from schemas.configuration import resumable_field
from schemas.errors import CorruptDataError, InputError, StoppedError, WorkFailedError
from schemas.telling import telling
from schemas.terminal import say
from trainers.checkpoint import Checkpoints, storing
from trainers.curve import Curve
from trainers.data_contents import check_same_data
from trainers.measured_rate import keep_rate
from trainers.moving_average import Ema
from trainers.optimizer import OptimizerConfig, make_optimizer, set_learning_rate
from trainers.same_training import check_same, settings_of
from trainers.shard_dataset import PairLoader, TrainingOrder
from trainers.step_figures import Step, StepFigures

if TYPE_CHECKING:
    import torch


log = logging.getLogger(__name__)
OF_A_CHECKPOINT = {"step", "weights", "optimizer"}


@dataclass(frozen=True)
class LoopConfig:
    """How long, how often, how many at once."""

    steps: int = resumable_field(6000)
    """Optimizer steps in all."""
    batch_size: int = 64
    """Samples a step, of all ranks together."""
    micro_batch: int = resumable_field(1)
    """Samples a forward pass of one rank."""
    evaluate_every: int = resumable_field(500)
    """Each evaluation writes a checkpoint, which may become the best one."""
    checkpoint_every: int = resumable_field(250)
    """Steps from one checkpoint to the next, besides those of evaluations."""
    keep_last: int = resumable_field(2)
    """Checkpoints that are kept, besides the best one."""
    report_every: int = resumable_field(10)
    """Steps from one line of progress, and point of the curves, to the next."""
    read_every: int = resumable_field(1)
    """Steps between looks at the losses (and whether they are numbers). Each look waits for the device: with small
    models on a GPU, 10 is faster. Before a checkpoint there always is one."""
    ema_decay: float = 0.0
    """Of a moving average of the trained weights, which is then what is evaluated, drawn with and exported; 0: none."""
    export: Literal["last", "best"] = resumable_field("last")
    """Weights that are exported at the end: of the last step, or of the evaluation with the best score."""
    loader_workers: int = resumable_field(2)
    """Processes of each rank that read samples ahead; 0: the training itself reads them."""
    seed: int = 0
    """Of the new LoRA, of which samples are held out, their order, and all that is random about each of them."""

    def check(self, world_size: int) -> None:
        """InputError for numbers that make no sense."""
        if self.steps < 1 or self.micro_batch < 1 or self.batch_size < 1:
            raise InputError(
                f"{self.steps} steps, batches of {self.batch_size}, micro-batches of {self.micro_batch}",
                expected="all at least 1",
            )
        for name in ("report_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                flag = f"--loop.{name.replace('_', '-')}"
                raise InputError(f"every {getattr(self, name)} steps", field=flag, expected="at least 1")
        if self.read_every < 1 or not 0 <= self.ema_decay < 1:
            raise InputError(
                f"read_every {self.read_every}, ema_decay {self.ema_decay}", expected="at least 1, and in [0, 1)"
            )
        if self.batch_size % world_size:
            raise InputError(
                f"a batch of {self.batch_size} on {world_size} ranks",
                field="--batch-size",
                expected="a multiple of the ranks",
            )


@dataclass(frozen=True)
class Rank:
    """Which process of how many."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


ALONE = Rank()


class Trainable(Protocol):
    """What a trainer is to the loop."""

    name: str
    config: Any
    """The training's configuration. One that differs in more than time and memory is another training."""

    @property
    def module(self) -> torch.nn.Module:
        """Its parameters with gradients are trained, and are what a checkpoint holds."""
        ...

    def losses(self, samples: Sequence[Any]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """For a micro-batch of what the training's `SampleSource` yields: subsets and losses (n,) of its samples, in
        one part or several."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out samples; the one named `score` decides which checkpoint is the best (more is better)."""
        ...

    def draw_samples(self, step: int) -> Path | None:
        """Pictures for people, where there is something to see: their file. None for files of text, or for nothing."""
        ...

    def export(self) -> None:
        """Write what others load."""
        ...


class SampleOrder(Protocol):
    """What the loop asks of an order: what subsets losses are told apart by, how many pairs, and what data it is of."""

    @property
    def subsets(self) -> tuple[str, ...]: ...

    @property
    def num_pairs(self) -> int: ...

    @property
    def contents(self) -> Mapping[str, str]:
        """Digests of what is learnt from, by name, in order: a checkpoint goes on with the same."""
        ...


class SampleSource(Protocol):
    """Where the samples of each step come from: `PairLoader`, or `EncodedTriplets`."""

    num_broken: int
    """Samples that did not read, so far."""

    def batches(self, first: int, stop: int, batch_size: int, rank: int, world_size: int) -> Iterator[Sequence[Any]]:
        """One rank's samples of [first, stop), a step of `batch_size` (of all ranks) after the other."""
        ...


class TrainingLoop:
    """One training, from wherever its last checkpoint left it."""

    def __init__(
        self,
        trainable: Trainable,
        order: SampleOrder,
        config: LoopConfig,
        optimizer: OptimizerConfig,
        out: Path,
        rank: Rank = ALONE,
        device: str = "cpu",
        source: SampleSource | None = None,
        whole_model: bool = False,
    ) -> None:
        """Loads the newest checkpoint in `out/checkpoints` that reads; InputError where it is of another training.
        source: by default the triplets of a `TrainingOrder`. whole_model: all of a large model is trained, in shards
        where there are several ranks, which then all take part in evaluations, checkpoints and the export."""
        config.check(rank.world_size)
        self.trainable, self.config, self.rank, self.out = trainable, config, rank, out
        self.order: Any = order  # whoever opened the training knows more of it
        self.source = source or PairLoader(cast(TrainingOrder, order), config.loader_workers)
        self._is_sharded = whole_model and rank.world_size > 1
        self._optimizer_config, self._device = optimizer, device
        self._figures = StepFigures(order.subsets, rank.world_size, device)
        self._sums: dict[str, list[float]] = defaultdict(list)  # figures of the steps since the last report
        self.parameters = [p for p in trainable.module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, optimizer)
        self.ema = Ema(trainable.module, config.ema_decay) if config.ema_decay else None
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_last)
        if whole_model:
            from trainers.sharded import ShardedCheckpoints

            self.checkpoints = ShardedCheckpoints(
                out / "checkpoints", config.keep_last, trainable.module, self.optimizer, rank
            )
        self.num_broken = 0
        """Samples that did not read, since the training's first step; of all ranks, when figures were last read."""
        self.step = self._num_broken_before = 0
        self._is_asked_to_stop = self._stops = False  # this rank; all of them, after this step
        state = self.checkpoints.latest(device)
        if state is not None:
            self._restore(state)

    def run(
        self,
        on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train to the last step; writes checkpoints, curves, and what the trainer exports. StorageError for a full
        disk. stop: StoppedError after the step at hand (of several ranks, after the next look at losses; the first rank
        is asked), with a checkpoint."""
        with storing(self.out):
            self._run(on_step, stop)

    def _run(self, on_step: Callable[[int, dict[str, float]], None], stop: Callable[[], bool]) -> None:
        config, name = self.config, self.trainable.name
        curve = Curve(self.out, name, self.step) if self.rank.is_first else None
        takes_part = self.rank.is_first or self._is_sharded
        self._say_what_is_done()
        started, first, waited_s = time.monotonic(), self.step, 0.0
        for samples, wait_s in self._batches():
            self._is_asked_to_stop = self.rank.is_first and stop()
            with self._memory("the step"), self._first_step(first):
                rows = self._train_step(samples)
            self.step += 1
            waited_s += wait_s
            for step, row in rows:
                for key, value in row.items():
                    self._sums[key].append(value)
                on_step(step, row)
            if self.step % config.report_every == 0 or self.step == config.steps:
                means = {key: sum(values) / len(values) for key, values in self._sums.items()}
                self._sums.clear()
                spent_s = time.monotonic() - started
                rate = (self.step - first) / spent_s
                if curve:
                    waiting = {"data_wait": waited_s / spent_s, "samples_per_s": rate * config.batch_size}
                    curve.write(self.step, means | waiting)
                    config_of_all, workers = self.trainable.config, self.rank.world_size
                    keep_rate(self.out, config_of_all, self._device, workers, rate * config.batch_size)
                    say(report_line(name, self.step, config.steps, means, rate), flush=True)
            is_evaluated = self.step % config.evaluate_every == 0 or self.step == config.steps
            if takes_part and (is_evaluated or self.step % config.checkpoint_every == 0):
                self._checkpoint(self._evaluate(curve) if is_evaluated else None)
            elif takes_part and self._stops:
                self._checkpoint(None)
            if self._stops and self.step < config.steps:
                break
        if curve:
            curve.close()
        if self.step < config.steps and self._stops:
            raise StoppedError(
                f"{name}: stopped after step {self.step} of {config.steps}, of which there is a checkpoint; the same "
                f"command goes on"
            )
        if takes_part:
            self._export()
        if curve and self.num_broken:
            say(f"{name}: {self.num_broken} samples did not read and were replaced; the log names them")

    def _say_what_is_done(self) -> None:
        config, name = self.config, self.trainable.name
        if not self.rank.is_first:
            return
        after = f", of which {self.step} are done" if self.step else ""
        say(f"{name}: {self.order.num_pairs:,} pairs, {config.steps} steps of {config.batch_size}{after}", flush=True)

    @contextmanager
    def _first_step(self, first: int) -> Iterator[None]:
        """Inside, the first step since this start is told: it takes longest."""
        if self.step > first or not self.rank.is_first:
            yield
            return
        compiles = getattr(self.trainable.config, "compile", "none") != "none"
        what = f"{self.trainable.name} {self.step + 1}/{self.config.steps}  the first step"
        started = time.monotonic()
        with telling(f"{what}{', which compiles: minutes' if compiles else ''}", again=f"at {what}"):
            yield
        say(f"{what} took {time.monotonic() - started:.1f} s", flush=True)

    def _batches(self) -> Iterator[tuple[Sequence[Any], float]]:
        """This rank's samples of every step that is left, and how long each was waited for, in seconds."""
        config, rank = self.config, self.rank
        batches = self.source.batches(
            self.step * config.batch_size,
            config.steps * config.batch_size,
            config.batch_size,
            rank.rank,
            rank.world_size,
        )
        while True:
            asked = time.monotonic()
            samples = next(batches, None)
            if samples is None:
                return
            yield samples, time.monotonic() - asked

    def _train_step(self, samples: Sequence[Any]) -> list[tuple[int, dict[str, float]]]:
        """One optimizer step. Step and figures of all steps not yet looked at, when it is time to. WorkFailedError for
        a loss that is no number: the step then changes nothing, and no checkpoint comes after it."""
        import torch

        size, parts = self.config.micro_batch, []
        for start in range(0, len(samples), size):
            for subsets, losses in self.trainable.losses(samples[start : start + size]):
                (losses.sum() / len(samples)).backward()
                parts.append((subsets, losses.detach()))
        self._share_gradients()
        norm: Any = torch.nn.utils.clip_grad_norm_(self.parameters, self._optimizer_config.max_gradient_norm)
        if self._is_sharded:
            norm = norm.full_tensor()
        rate = self._learning_rate()
        first = self.step * self.config.batch_size
        last = first + self.config.batch_size - 1
        self._figures.add(Step(self.step + 1, (first, last), parts, norm, {"learning_rate": rate}))
        rows = self._read() if self._is_read_after(self.step + 1) else []
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update()
        if "d" in self.optimizer.param_groups[0] and rows:
            rows[-1][1]["prodigy_d"] = float(self.optimizer.param_groups[0]["d"])
        return rows

    def _is_read_after(self, step: int) -> bool:
        config = self.config
        if self._is_asked_to_stop and self.rank.world_size == 1:
            return True
        every = (config.read_every, config.report_every, config.evaluate_every, config.checkpoint_every)
        return step == config.steps or any(step % number == 0 for number in every)

    def _read(self) -> list[tuple[int, dict[str, float]]]:
        """Step and figures of the steps since the last look. WorkFailedError where one is no number."""
        seen = self._figures.read(self.source.num_broken, self._is_asked_to_stop)
        self.num_broken, self._stops = self._num_broken_before + seen.num_broken, seen.is_asked_to_stop
        return seen.rows

    def _learning_rate(self) -> float:
        config, left = self._optimizer_config, self.config.steps - self.step
        warmup = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        decay = max(0.02, min(1.0, left / config.decay_steps)) if config.decay_steps else 1.0
        return config.learning_rate * warmup * decay

    def _share_gradients(self) -> None:
        """Mean over ranks; a rank without a gradient for a parameter counts as zero. Shards have it already."""
        if self.rank.world_size == 1 or self._is_sharded:
            return
        import torch
        import torch.distributed as dist

        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.rank.world_size

    @contextmanager
    def _memory(self, doing: str) -> Iterator[None]:
        """Inside, WorkFailedError says what to do when memory runs out."""
        import torch

        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            size, reason = self.config.micro_batch, str(error).splitlines()[0]
            raise WorkFailedError(
                f"step {self.step}: out of memory in {doing} with micro-batches of {size}: {reason}\n"
                f"  the last checkpoint is sound; go on from it with --loop.micro-batch {max(1, size // 2)} (the same"
                f" numbers, up\n  to rounding), or train anew with a smaller image, condition or rank; --plan says what"
                f" each takes"
            ) from error

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the weights are their moving average, where there is one."""
        return self.ema.applied() if self.ema else nullcontext()

    def _evaluate(self, curve: Curve | None) -> float | None:
        """Figures into the curve, and pictures; the score, where there is one."""
        name, config = self.trainable.name, self.config
        with self.averaged():
            with self._memory("the evaluation"):
                figures = self.trainable.evaluate()
            score = figures.pop("score", None)
            if figures and curve:
                curve.write(self.step, figures)
                say(report_line(name, self.step, config.steps, figures, None), flush=True)
            with self._memory("drawing samples"):
                picture = self.trainable.draw_samples(self.step)
            if picture is not None and curve:
                curve.write_picture(self.step, "samples", picture)
        return score

    def _checkpoint(self, score: float | None) -> None:
        state = {
            "step": self.step,
            "weights": self._trained(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state() if self.ema else None,
            "num_broken": self.num_broken,
            "sums": dict(self._sums),
            "settings": settings_of(self.trainable.config),
            "data": dict(self.order.contents),
        }
        self.checkpoints.save(self.step, state, score)

    def _export(self) -> None:
        """What the trainer writes for others, with the weights that `export` names."""
        best = self.checkpoints.best() if self.config.export == "best" else None
        if best is not None and best[0] != self.step:
            try:
                state = self.checkpoints.at(best[0], self._device)
            except CorruptDataError as error:
                log.warning("%s; in place of the best weights those of step %d are exported", error, self.step)
                state = None
            if state is not None:
                say(f"{self.trainable.name}: exported as it was at step {best[0]} (score {best[1]:.4g})")
                self._copy(state)
        with self.averaged(), self._memory("the export"):
            self.trainable.export()

    def _trained(self) -> dict[str, torch.Tensor]:
        return {n: p for n, p in self.trainable.module.named_parameters() if p.requires_grad}

    def _copy(self, state: dict[str, Any]) -> None:
        """Weights and their average from a checkpoint."""
        import torch

        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(state["weights"][name])
        if self.ema and state.get("ema"):
            self.ema.restore(state["ema"])
        elif self.ema:
            self.ema = Ema(self.trainable.module, self.config.ema_decay)

    def _restore(self, state: dict[str, Any]) -> None:
        if not state.keys() >= OF_A_CHECKPOINT:
            raise InputError(
                "the newest checkpoint is of no training with steps", file=str(self.out), expected="that file elsewhere"
            )
        if "settings" in state:  # checkpoints that were written before settings were kept have none
            settings, before = settings_of(self.trainable.config), state["settings"]
            if state.get("data"):  # otherwise it was written before data was known by its contents, and knows the place
                before = before | {"data": settings.get("data")}
            check_same(settings, before, self.out)
            if state.get("data"):
                check_same_data(self.order.contents, state["data"], str(settings.get("data")), self.out)
        shapes = {n: p.shape for n, p in self._trained().items()}
        if {n: p.shape for n, p in state["weights"].items()} != shapes:
            raise InputError(
                f"{self.out}: its checkpoints are of another model or LoRA",
                field="--out",
                expected="the settings that it was started with, or another folder",
            )
        if state["step"] > self.config.steps:
            raise InputError(
                f"{self.out} was trained for {state['step']} steps already",
                field="--loop.steps",
                expected="as many, or more; or another --out, or remove the folder",
            )
        self._copy(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        self.num_broken = self._num_broken_before = int(state.get("num_broken", 0))
        self._sums.update(state.get("sums", {}))


def report_line(name: str, step: int, steps: int, values: dict[str, float], rate: float | None) -> str:
    """One line of progress; rate: steps a second."""
    eta = "" if not rate else f"  {rate:.2f} steps/s  ETA {int((steps - step) / rate // 60)} min"
    return f"{name} {step}/{steps}  " + "  ".join(f"{k} {v:.4g}" for k, v in values.items()) + eta
