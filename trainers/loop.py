"""The loop that all trainers on shards share: batches in order, one optimizer step each, curves, checkpoints, resume.

A trainer says what its losses are (`Trainable`); everything that must survive a kill is here. Sample n of a training is
always the same, so a training that was killed goes on with the same numbers.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from schemas.errors import InputError, WorkFailedError
from trainers.checkpoint import Checkpoints
from trainers.shard_dataset import PairDataset, TrainingOrder, Triplet, rank_numbers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the weights."""

    name: Literal["prodigy", "adamw"] = "prodigy"
    learning_rate: float = 1.0
    weight_decay: float = 0.01
    warmup_steps: int = 0
    decay_steps: int = 0
    """Over the last so many steps the learning rate falls linearly to a fiftieth."""
    max_gradient_norm: float = 0.5


@dataclass(frozen=True)
class LoopConfig:
    """How long, how often, how many at once."""

    steps: int = 6000
    batch_size: int = 64
    """Samples a step, of all ranks together."""
    micro_batch: int = 1
    """Samples a forward pass of one rank."""
    evaluate_every: int = 500
    checkpoint_every: int = 250
    keep_last: int = 2
    report_every: int = 10
    loader_workers: int = 2
    seed: int = 0

    def check(self, world_size: int) -> None:
        """InputError for numbers that make no sense."""
        if self.steps < 1 or self.micro_batch < 1 or self.batch_size < 1:
            raise InputError(
                f"{self.steps} steps, batches of {self.batch_size}, micro-batches of {self.micro_batch}",
                expected="all at least 1",
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

    @property
    def module(self) -> torch.nn.Module:
        """Its parameters with gradients are trained, and are what a checkpoint holds."""
        ...

    def losses(self, triplets: Sequence[Triplet]) -> Iterator[tuple[list[str], torch.Tensor]]:
        """For a micro-batch: subsets and losses (n,) of its samples, in one part or several."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out samples; the one named `score` decides which checkpoint is the best (more is better)."""
        ...

    def draw_samples(self, step: int) -> None:
        """Pictures for people, where there is something to see."""
        ...

    def export(self) -> None:
        """Write what others load."""
        ...


class TrainingLoop:
    """One training, from wherever its last checkpoint left it."""

    def __init__(
        self,
        trainable: Trainable,
        order: TrainingOrder,
        config: LoopConfig,
        optimizer: OptimizerConfig,
        out: Path,
        rank: Rank = ALONE,
        device: str = "cpu",
    ) -> None:
        """Loads the newest checkpoint in `out/checkpoints` that reads."""
        config.check(rank.world_size)
        self.trainable, self.order, self.config, self.rank, self.out = trainable, order, config, rank, out
        self._optimizer_config = optimizer
        self.parameters = [p for p in trainable.module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters, optimizer)
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_last)
        self.step = 0
        state = self.checkpoints.latest(device)
        if state is not None:
            self._restore(state)

    def run(self, on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None) -> None:
        """Train to the last step; writes checkpoints, curves, and what the trainer exports."""
        config, name = self.config, self.trainable.name
        log = Curve(self.out) if self.rank.is_first else None
        started, first = time.monotonic(), self.step
        sums: dict[str, list[float]] = defaultdict(list)
        for triplets in self._batches():
            row = self._train_step(triplets)
            self.step += 1
            for key, value in row.items():
                sums[key].append(value)
            on_step(self.step, row)
            if log and (self.step % config.report_every == 0 or self.step == config.steps):
                means = {key: sum(values) / len(values) for key, values in sums.items()}
                sums.clear()
                rate = (self.step - first) / (time.monotonic() - started)
                log.write(self.step, means)
                print(report_line(name, self.step, config.steps, means, rate), flush=True)
            if log and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                self._checkpoint(log)
        if log:
            log.close()
            self.trainable.export()

    def _batches(self) -> Iterator[list[Triplet]]:
        """This rank's samples of every step that is left."""
        import torch

        config, rank = self.config, self.rank
        numbers = rank_numbers(
            self.step * config.batch_size, config.steps * config.batch_size, rank.rank, rank.world_size
        )
        loader: Any = torch.utils.data.DataLoader(
            PairDataset(self.order),  # pyright: ignore[reportArgumentType]
            batch_size=config.batch_size // rank.world_size,
            sampler=list(numbers),
            num_workers=config.loader_workers,
            collate_fn=list,
        )
        return iter(loader)

    def _train_step(self, triplets: Sequence[Triplet]) -> dict[str, float]:
        """One optimizer step. WorkFailedError for a loss that is no number: nothing is stepped then."""
        import torch

        size, per_subset, total = self.config.micro_batch, defaultdict(list), 0.0
        for start in range(0, len(triplets), size):
            for subsets, losses in self.trainable.losses(triplets[start : start + size]):
                (losses.sum() / len(triplets)).backward()
                for subset, loss in zip(subsets, losses.detach().tolist(), strict=True):
                    per_subset[subset].append(loss)
                    total += loss / len(triplets)
        if total != total or total in (float("inf"), float("-inf")):
            raise WorkFailedError(
                f"step {self.step}: the loss is {total}; samples {triplets[0].number} to {triplets[-1].number}\n"
                f"  the last checkpoint is sound; lower the learning rate, or turn bf16 off, and start again"
            )
        self._share_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._optimizer_config.max_gradient_norm)
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        row = {"loss": total, "gradient_norm": float(norm), "learning_rate": rate}
        if "d" in self.optimizer.param_groups[0]:
            row["prodigy_d"] = float(self.optimizer.param_groups[0]["d"])
        return row | {f"loss/{subset}": sum(values) / len(values) for subset, values in per_subset.items()}

    def _learning_rate(self) -> float:
        config, left = self._optimizer_config, self.config.steps - self.step
        warmup = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        decay = max(0.02, min(1.0, left / config.decay_steps)) if config.decay_steps else 1.0
        return config.learning_rate * warmup * decay

    def _share_gradients(self) -> None:
        """Mean over ranks; a rank without a gradient for a parameter counts as zero."""
        if self.rank.world_size == 1:
            return
        import torch
        import torch.distributed as dist

        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.rank.world_size

    def _checkpoint(self, log: Curve) -> None:
        config, score = self.config, None
        if self.step % config.evaluate_every == 0 or self.step == config.steps:
            found = self.trainable.evaluate()
            score = found.pop("score", None)
            if found:
                log.write(self.step, found)
                print(report_line(self.trainable.name, self.step, config.steps, found, None), flush=True)
            self.trainable.draw_samples(self.step)
        trained = {n: p for n, p in self.trainable.module.named_parameters() if p.requires_grad}
        state = {"step": self.step, "weights": trained, "optimizer": self.optimizer.state_dict()}
        self.checkpoints.save(self.step, state, score)

    def _restore(self, state: dict[str, Any]) -> None:
        import torch

        trained = {n: p for n, p in self.trainable.module.named_parameters() if p.requires_grad}
        if {n: p.shape for n, p in state["weights"].items()} != {n: p.shape for n, p in trained.items()}:
            raise InputError(
                f"{self.out}: its checkpoints are of another model or LoRA",
                field="--out",
                expected="the settings that it was started with, or another folder",
            )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


class Curve:
    """`curve.jsonl`, and the same for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "curve.jsonl"
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """A line, and a point of every curve."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def make_optimizer(parameters: Sequence[torch.Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Prodigy as the corrector is trained with, or AdamW."""
    import torch

    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
    from prodigyopt import Prodigy

    return Prodigy(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,  # pyright: ignore[reportArgumentType] - typed by its default, 0
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def report_line(name: str, step: int, steps: int, values: dict[str, float], rate: float | None) -> str:
    """One line of progress; rate: steps a second."""
    eta = "" if not rate else f"  {rate:.2f} steps/s  ETA {int((steps - step) / rate // 60)} min"
    return f"{name} {step}/{steps}  " + "  ".join(f"{k} {v:.4g}" for k, v in values.items()) + eta
