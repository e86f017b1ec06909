"""The moving average of a model's weights, which is what is evaluated and exported where one is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Ema:
    """Exponential moving average of a model's parameters (float32), with a decay that grows from 0 at the start."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._average = [p.detach().clone().float() for p in self._parameters]

    def update(self) -> None:
        import torch

        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's parameters are the averages."""
        kept = [p.detach().clone() for p in self._parameters]
        self._copy(self._average)
        try:
            yield
        finally:
            self._copy(kept)

    def _copy(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.data.copy_(value)

    def state(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "average": self._average}

    def restore(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        for mine, saved in zip(self._average, state["average"], strict=True):
            mine.copy_(saved)
