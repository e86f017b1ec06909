"""`python -m trainers corrector`: a FLUX LoRA that draws again from the flawed image and the reflection.

ReflectionFlow §3.3, Eq. 4: flow matching on the target's tokens of [text; target; condition], the condition at timestep
0, everything frozen but the LoRA. Killed at any moment, the same command goes on with the same numbers.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.flux.conditioning import ConditionConfig, ConditionedFlux
from inference.flux.corrector import CorrectorDescription, FluxCorrector, save_corrector
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from schemas.errors import InputError, WorkFailedError
from trainers.checkpoint import Checkpoints
from trainers.corrector_batches import BatchConfig, BatchMaker, TrainingBatch
from trainers.shard_dataset import MixSchedule, PairDataset, TrainingOrder, Triplet, hold_out, rank_numbers
from trainers.shard_index import open_index

if TYPE_CHECKING:
    import torch

EVALUATION_SEED = 7_000_003


@dataclass(frozen=True)
class OptimizerConfig:
    """What moves the LoRA."""

    name: Literal["prodigy", "adamw"] = "prodigy"
    learning_rate: float = 1.0
    weight_decay: float = 0.01
    warmup_steps: int = 0
    max_gradient_norm: float = 0.5


@dataclass(frozen=True)
class CorrectorTrainingConfig:
    """One training. The defaults are the paper's, for FLUX.1-dev at 1024 px."""

    data: str = ""
    """Run folder or folder of shards, local or s3://."""
    out: Path = Path("runs/corrector")
    """Checkpoints, curves and pictures; the corrector itself in `out/corrector`."""
    generator: FluxGeneratorConfig = field(default_factory=FluxGeneratorConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mix: MixSchedule = field(default_factory=MixSchedule)
    steps: int = 6000
    batch_size: int = 64
    """Samples a step, of all ranks together."""
    micro_batch: int = 1
    """Samples a forward pass of one rank."""
    held_out_share: float = 0.02
    """Share of the triplets that are kept for evaluation."""
    evaluate_every: int = 500
    num_evaluated: int = 64
    checkpoint_every: int = 250
    keep_last: int = 2
    report_every: int = 10
    loader_workers: int = 2
    seed: int = 0
    bf16: bool = True
    """bfloat16 autocast."""


@dataclass(frozen=True)
class Rank:
    """Which process of how many."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


class CorrectorTraining:
    """State of one training: LoRA, optimizer, how many steps are done."""

    def __init__(self, config: CorrectorTrainingConfig, rank: Rank = Rank()) -> None:
        """Opens the shards, loads FLUX, and the newest checkpoint if there is one. InputError for what cannot be."""
        import torch

        _check(config, rank)
        self.config, self.rank = config, rank
        index = open_index(config.data, config.out / "cache")
        training, held_out = hold_out(index, config.held_out_share, config.seed)
        self.order = TrainingOrder(training, config.mix, config.batch_size, config.seed)
        self.held_out = held_out
        self.generator = FluxGenerator(config.generator)
        torch.manual_seed(config.seed)
        self.model = ConditionedFlux(self.generator.pipeline.transformer, config.condition)
        self.model.to(config.generator.device)
        self.batches = BatchMaker(self.generator, config.batch, config.seed)
        self.optimizer = _optimizer(list(self.model.lora.parameters()), config.optimizer)
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep_last)
        self.step = 0
        state = self.checkpoints.latest(config.generator.device)
        if state is not None:
            self.model.lora.load_state_dict(state["lora"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = int(state["step"])

    def run(self, on_step: Callable[[int, dict[str, float]], None] = lambda step, row: None) -> None:
        """Train to the last step; writes checkpoints, curves, and the corrector."""
        config = self.config
        log = Curve(config.out / "curve.jsonl") if self.rank.is_first else None
        started, first = time.monotonic(), self.step
        sums: dict[str, list[float]] = defaultdict(list)
        for triplets in self._steps():
            row = self._train_step(triplets)
            self.step += 1
            for name, value in row.items():
                sums[name].append(value)
            on_step(self.step, row)
            if log and (self.step % config.report_every == 0 or self.step == config.steps):
                means = {name: sum(values) / len(values) for name, values in sums.items()}
                sums.clear()
                rate = (self.step - first) / (time.monotonic() - started)
                log.write(self.step, means)
                print(_line(self.step, config.steps, means, rate), flush=True)
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self._checkpoint(log)
        if self.rank.is_first:
            self.export()

    def _steps(self) -> Iterator[list[Triplet]]:
        """This rank's samples of every step that is left."""
        import torch

        config = self.config
        per_rank = config.batch_size // self.rank.world_size
        numbers = rank_numbers(
            self.step * config.batch_size, config.steps * config.batch_size, self.rank.rank, self.rank.world_size
        )
        loader: Any = torch.utils.data.DataLoader(
            PairDataset(self.order),  # pyright: ignore[reportArgumentType]
            batch_size=per_rank,
            sampler=list(numbers),
            num_workers=config.loader_workers,
            collate_fn=list,
        )
        return iter(loader)

    def _train_step(self, triplets: Sequence[Triplet]) -> dict[str, float]:
        """One optimizer step. WorkFailedError for a loss that is no number: nothing is stepped then."""
        import torch

        config = self.config
        per_subset: dict[str, list[float]] = defaultdict(list)
        total, num_samples = 0.0, len(triplets)
        for start in range(0, num_samples, config.micro_batch):
            for batch in self.batches(triplets[start : start + config.micro_batch]):
                losses = self.losses_of(batch)
                (losses.sum() / num_samples).backward()
                for subset, loss in zip(batch.subsets, losses.detach().tolist(), strict=True):
                    per_subset[subset].append(loss)
                    total += loss / num_samples
        if total != total or total in (float("inf"), float("-inf")):
            numbers = [triplet.number for triplet in triplets]
            raise WorkFailedError(
                f"step {self.step}: the loss is {total}; samples {numbers[0]} to {numbers[-1]}\n"
                f"  the last checkpoint is sound; lower the learning rate, or turn bf16 off, and start again"
            )
        parameters = list(self.model.lora.parameters())
        self._share_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
        warmup = min(1.0, (self.step + 1) / max(1, config.optimizer.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.learning_rate * warmup
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        row = {"loss": total, "gradient_norm": float(norm), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if "d" in self.optimizer.param_groups[0]:
            row["prodigy_d"] = float(self.optimizer.param_groups[0]["d"])
        return row | {f"loss/{subset}": sum(values) / len(values) for subset, values in per_subset.items()}

    def _share_gradients(self, parameters: list[torch.Tensor]) -> None:
        """Mean over ranks; a rank without a gradient for a parameter counts as zero."""
        if self.rank.world_size == 1:
            return
        import torch
        import torch.distributed as dist

        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.rank.world_size

    def losses_of(self, batch: TrainingBatch) -> torch.Tensor:
        """(B,) flow-matching losses on the target's tokens: velocity against noise - x0."""
        import torch

        noisy = torch.lerp(batch.x0, batch.noise, batch.t[:, None, None])
        with torch.autocast(batch.x0.device.type, torch.bfloat16, enabled=self.config.bf16):
            velocity = self.model(
                noisy,
                batch.t,
                torch.ones_like(batch.t),
                batch.prompt_embeds,
                batch.pooled,
                batch.image_ids,
                batch.condition,
                batch.condition_ids,
            )
        error = (velocity.float() - (batch.noise - batch.x0).float()).square()
        return (error * batch.weight).mean((1, 2))

    def evaluate(self) -> dict[str, float]:
        """Mean loss on held-out triplets, by subset and overall; the same samples, times and noises at every call."""
        import torch

        if not len(self.held_out):
            return {}
        weights = dict.fromkeys(("rule", "general", "length", "editing"), 0.25)
        order = TrainingOrder(self.held_out, MixSchedule(weights, weights), 1, EVALUATION_SEED)
        dataset = PairDataset(order)
        count = min(self.config.num_evaluated, 4 * len(self.held_out))
        by_subset: dict[str, list[float]] = defaultdict(list)
        self.model.eval()
        with torch.no_grad():
            for start in range(0, count, max(1, self.config.micro_batch)):
                triplets = [dataset[n] for n in range(start, min(start + self.config.micro_batch, count))]
                for batch in self.batches(triplets):
                    for subset, loss in zip(batch.subsets, self.losses_of(batch).tolist(), strict=True):
                        by_subset[subset].append(loss)
        self.model.train()
        every = [loss for losses in by_subset.values() for loss in losses]
        found = {f"held_out/{name}": sum(losses) / len(losses) for name, losses in by_subset.items()}
        return found | {"held_out": sum(every) / len(every)}

    def _checkpoint(self, log: Curve | None) -> None:
        if not self.rank.is_first:
            return
        config, score = self.config, None
        if self.step % config.evaluate_every == 0 or self.step == config.steps:
            found = self.evaluate()
            if found and log:
                score = -found["held_out"]
                log.write(self.step, found)
                print(_line(self.step, config.steps, found, None), flush=True)
                self.draw_samples()
        state = {"step": self.step, "lora": self.model.lora.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.checkpoints.save(self.step, state, score)

    def description(self) -> CorrectorDescription:
        """What the exported corrector says of itself."""
        config = self.config
        return CorrectorDescription(config.condition, config.batch.condition_px, config.generator.model)

    def export(self) -> Path:
        """Write the corrector as `FluxCorrector` loads it."""
        folder = self.config.out / "corrector"
        folder.mkdir(parents=True, exist_ok=True)
        save_corrector(folder, self.model, self.description())
        return folder

    def draw_samples(self, count: int = 8) -> None:
        """`samples/step_N.png`: flawed images, what the corrector makes of them, and the better images, a row each."""
        import numpy as np
        from PIL import Image

        if not len(self.held_out):
            return
        weights = dict.fromkeys(("rule", "general", "length", "editing"), 0.25)
        dataset = PairDataset(TrainingOrder(self.held_out, MixSchedule(weights, weights), 1, EVALUATION_SEED))
        triplets = [dataset[n] for n in range(count)]
        corrector = FluxCorrector.of(self.model.eval(), self.description(), self.generator)
        drawn = corrector.correct(
            [t.bad for t in triplets],
            [t.prompt for t in triplets],
            [t.reflection for t in triplets],
            [EVALUATION_SEED + t.number for t in triplets],
        )
        self.model.train()
        size = self.config.batch.size_px
        rows = [
            np.concatenate([np.asarray(Image.fromarray(image).resize((size, size))) for image in images], axis=1)
            for images in ([t.bad for t in triplets], drawn, [t.good for t in triplets])
        ]
        path = self.config.out / "samples" / f"step_{self.step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet = Image.fromarray(np.concatenate(rows))
        scale = max(1, 128 // size)
        sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)


class Curve:
    """`curve.jsonl`, and TensorBoard where it is installed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer: Any = SummaryWriter(str(path.parent / "tensorboard"))
        except ImportError:
            self._writer = None

    def write(self, step: int, values: dict[str, float]) -> None:
        """A line, and a point of every curve."""
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if self._writer is not None:
                self._writer.add_scalar(name, value, step)


def _optimizer(parameters: list[torch.Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    import torch

    if config.name == "adamw":
        return torch.optim.AdamW(
            parameters, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
        )
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise InputError(
            "Prodigy is not installed", field="optimizer.name", expected="`pip install prodigyopt`, or adamw"
        ) from None
    return Prodigy(
        parameters,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        use_bias_correction=True,
        safeguard_warmup=True,
    )


def _check(config: CorrectorTrainingConfig, rank: Rank) -> None:
    if not config.data:
        raise InputError("no data", field="--data", expected="a run folder, or a folder of shards")
    if config.batch_size % rank.world_size:
        raise InputError(
            f"a batch of {config.batch_size} on {rank.world_size} ranks",
            field="--batch-size",
            expected="a multiple of the ranks",
        )
    if config.steps < 1 or config.micro_batch < 1:
        raise InputError(f"{config.steps} steps, micro-batch {config.micro_batch}", expected="both at least 1")


def _line(step: int, steps: int, values: dict[str, float], rate: float | None) -> str:
    eta = "" if not rate else f"  {rate:.2f} steps/s  ETA {int((steps - step) / rate // 60)} min"
    return f"corrector {step}/{steps}  " + "  ".join(f"{k} {v:.4g}" for k, v in values.items()) + eta


def micro_corrector_training(data: str, out: Path) -> CorrectorTrainingConfig:
    """For the micro FLUX on two cores: the condition at full resolution (half of 32 px would leave four tokens)."""
    return CorrectorTrainingConfig(
        data=data,
        out=out,
        condition=ConditionConfig(rank=32, alpha=32.0),
        batch=BatchConfig(size_px=32, condition_px=32, time_shift=0.4),
        optimizer=OptimizerConfig("adamw", 1e-3, warmup_steps=100, max_gradient_norm=1.0),
        mix=MixSchedule(steps=500),
        steps=4000,
        batch_size=64,
        micro_batch=64,
        evaluate_every=500,
        checkpoint_every=100,
        held_out_share=0.05,
    )


def used_subsets(order: TrainingOrder, first: int, count: int) -> Counter[str]:
    """How often each subset is drawn, for a plan."""
    return Counter(order.subset_of(n) for n in range(first, first + count))
