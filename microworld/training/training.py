"""What every training of a micro model carries from step to step, saved and restored as one file.

    training = Training(config, "sam", sam, [(optimizer, peak_learning_rate)], ema_decay=0.995)
    while training.clock.running():
        loss = ...
        training.step(loss, num_samples, {"iou": iou})     # gradients, schedule, average, progress line, checkpoint
    training.checkpoint()
    with training.ema.applied():
        export_folder(...)

Killed at any moment, the same lines go on from the last checkpoint: `Training` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from microworld.training.training_loop import (
    MicroTrainingConfig,
    TrainingClock,
    bf16_is_faster,
    learning_rate_factor,
    save_curve,
)
from trainers.checkpoint import load_checkpoint, save_checkpoint
from trainers.moving_average import Ema
from trainers.optimizer import set_learning_rate

if TYPE_CHECKING:
    import torch

MAX_GRADIENT_NORM = 1.0


class Training:
    """`model`'s trainable parameters under `optimizers` (each with its peak learning rate).

    `resumed` says whether there was a checkpoint `work_dir/<name>.pt`; then everything is as it was.
    """

    def __init__(
        self,
        config: MicroTrainingConfig,
        name: str,
        model: torch.nn.Module,
        optimizers: Sequence[tuple[torch.optim.Optimizer, float]],
        *,
        ema_decay: float,
        warmup: float = 0.03,
        decay: float = 0.4,
        checkpoint_every_s: float = 120.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """warmup, decay: shares of the budget. extra: plain values or tensors that the checkpoint holds besides."""
        self.config, self.model, self.optimizers = config, model, list(optimizers)
        self._warmup, self._decay, self._checkpoint_every_s, self._extra = warmup, decay, checkpoint_every_s, extra
        self._path = checkpoint_path(config, name)
        self.clock = TrainingClock(config.minutes, name)
        state = load_checkpoint(self._path, config.device)
        self.resumed = state is not None
        if state:
            model.load_state_dict(state["model"], strict=False)
            for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.clock.restore(state["clock"])
        self._ema_decay = ema_decay
        self.ema = Ema(model, ema_decay)
        if state:
            self.ema.restore(state["ema"])

    def begin(self) -> None:
        """After weights were set by other means than steps: the average starts from them, and they are kept."""
        self.ema = Ema(self.model, self._ema_decay)
        self.checkpoint()

    def seed(self, salt: int) -> list[int]:
        """For a random generator that goes on differently after every resumption."""
        return [self.config.seed, salt, self.clock.num_steps]

    def pick_bf16(self, loss_of_batch: Callable[[bool], torch.Tensor], num_steps: int = 10) -> bool:
        """Whether bfloat16 autocast is faster here, by measurement; False where nothing is left to train."""
        if not self.clock.running():
            return False

        def step(use_bf16: bool) -> None:
            loss_of_batch(use_bf16).backward()
            self.model.zero_grad(set_to_none=True)

        faster = bf16_is_faster(step, num_steps)
        self.clock.pause()
        return faster

    def warm_up(self, loss: Callable[[], torch.Tensor]) -> None:
        """One forward and backward pass that changes nothing: compiling is no training time."""
        if self.clock.running():
            loss().backward()
            self.model.zero_grad(set_to_none=True)
            self.clock.pause()

    def step(self, loss: torch.Tensor, num_samples: int, metrics: dict[str, float]) -> None:
        import torch

        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        factor = learning_rate_factor(self.clock.share(), self._warmup, self._decay)
        for optimizer, learning_rate in self.optimizers:
            set_learning_rate(optimizer, learning_rate * factor)
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.ema.update()
        self.clock.step(num_samples, metrics)
        if self.clock.due("checkpoint", self._checkpoint_every_s):
            self.checkpoint()
            self.clock.pause()

    def checkpoint(self) -> None:
        """Frozen weights are left out: they come from where they came from."""
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        state = {
            "model": {name: value for name, value in self.model.state_dict().items() if name not in frozen},
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "ema": self.ema.state(),
            "clock": self.clock.state(),
        }
        save_checkpoint(self._path, state | (self._extra or {}))
        save_curve(self.clock, self.config.work_dir)


def checkpoint_path(config: MicroTrainingConfig, name: str):
    """Where the training of that name keeps its state."""
    return config.work_dir / f"{name.replace('-', '_')}.pt"
