"""Figures of a training's steps: they stay on the device until somebody looks, and are then those of all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.errors import WorkFailedError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Step:
    """What a step leaves on the device. step: counted from 1. samples: the first and the last. parts: subsets and
    losses (n,) of each. norm: the gradient's. figures: others, which are numbers already."""

    step: int
    samples: tuple[int, int]
    parts: Sequence[tuple[list[str], torch.Tensor]]
    norm: torch.Tensor
    figures: dict[str, float]


@dataclass(frozen=True)
class Seen:
    """rows: step and figures. num_broken: samples of all ranks that did not read. is_asked_to_stop: whether a rank
    is."""

    rows: list[tuple[int, dict[str, float]]]
    num_broken: int
    is_asked_to_stop: bool


class StepFigures:
    """Of the steps that nobody looked at yet."""

    def __init__(self, subsets: Sequence[str], world_size: int, device: str) -> None:
        self._subsets, self._world_size, self._device = subsets, world_size, device
        self._unread: list[Step] = []

    def add(self, step: Step) -> None:
        """Costs no wait."""
        self._unread.append(step)

    def read(self, num_broken: int, is_asked_to_stop: bool) -> Seen:
        """All ranks take part. num_broken, is_asked_to_stop: of this one. WorkFailedError for a loss or a gradient that
        is no number."""
        tables, num_broken, is_asked_to_stop = self._shared(num_broken, is_asked_to_stop)
        rows = [self._row(step, table) for step, table in zip(self._unread, tables, strict=True)]
        self._unread.clear()
        return Seen(rows, num_broken, is_asked_to_stop)

    def _row(self, step: Step, table: Sequence[Sequence[float]]) -> tuple[int, dict[str, float]]:
        sums = dict(zip(self._subsets, table, strict=True))
        count = sum(count for _, count in sums.values())
        total = sum(total for total, _ in sums.values()) / max(1, count)
        norm = float(step.norm)
        if not (math.isfinite(total) and math.isfinite(norm)):
            what = f"the gradient's norm is {norm}" if math.isfinite(total) else f"the loss is {total}"
            raise WorkFailedError(
                f"step {step.step - 1}: {what}; samples {step.samples[0]} to {step.samples[1]}\n"
                f"  the last checkpoint is sound; go on from it with bf16 turned off, or train anew, in another\n"
                f"  --out, with a lower learning rate"
            )
        means = {f"loss/{subset}": total / count for subset, (total, count) in sums.items() if count}
        return step.step, {"loss": total, "gradient_norm": norm} | step.figures | means

    def _shared(self, num_broken: int, is_asked_to_stop: bool) -> tuple[list[list[list[float]]], int, bool]:
        """Sum and number of the losses of each subset, for each step, over all ranks."""
        import torch

        row_of = {subset: row for row, subset in enumerate(self._subsets)}
        tables = [[[0.0, 0.0] for _ in row_of] for _ in self._unread]
        for table, step in zip(tables, self._unread, strict=True):
            for subsets, losses in step.parts:
                for subset, loss in zip(subsets, losses.tolist(), strict=True):
                    table[row_of[subset]][0] += loss
                    table[row_of[subset]][1] += 1
        if self._world_size == 1:
            return tables, num_broken, is_asked_to_stop
        import torch.distributed as dist

        shared = torch.tensor(tables, dtype=torch.float64, device=self._device)
        counts = torch.tensor([num_broken, int(is_asked_to_stop)], device=self._device)
        dist.all_reduce(shared)
        dist.all_reduce(counts)
        return shared.tolist(), int(counts[0]), bool(counts[1])
