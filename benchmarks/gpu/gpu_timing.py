"""Time and memory on a device, and what is left of the time that a measurement may take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

H100_DENSE_BF16_TFLOPS = 989.0  # NVIDIA's data sheet, SXM, without sparsity


class OutOfTimeError(Exception):
    """What is left of the budget does not hold the next measurement."""


@dataclass
class Stopwatch:
    """Of one device. Times are medians in milliseconds, by CUDA events where there are any."""

    device: str
    budget_s: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget_s - (time.perf_counter() - self.started)

    def need(self, seconds: float) -> None:
        """OutOfTimeError unless so many seconds are left."""
        if self.left_s < seconds:
            raise OutOfTimeError(f"{self.left_s:.0f} s left, {seconds:.0f} s wanted")

    def median_ms(self, run: Callable[[], Any], repeats: int = 5, warmups: int = 2) -> float:
        """Of `repeats` runs after `warmups` that do not count."""
        for _ in range(warmups):
            run()
        return round(statistics.median(self.once_ms(run) for _ in range(repeats)), 3)

    def once_ms(self, run: Callable[[], Any]) -> float:
        """One run, from an idle device to an idle device."""
        if self.device == "cpu":
            before = time.perf_counter()
            run()
            return 1000 * (time.perf_counter() - before)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def enqueue_ms(self, run: Callable[[], Any]) -> float:
        """Host time until the call returns: near the whole time, the host is what holds the device up."""
        self.once_ms(run)
        before = time.perf_counter()
        run()
        took = 1000 * (time.perf_counter() - before)
        self.once_ms(lambda: None)
        return round(took, 1)

    def forget_peak(self) -> None:
        """Free what is unused; the next peak counts from here."""
        if self.device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        """Largest memory of tensors since `forget_peak`; None on the CPU."""
        return None if self.device == "cpu" else round(torch.cuda.max_memory_allocated() / 2**30, 2)


def utilisation(tflop: float | None, ms: float) -> dict[str, float]:
    """TFLOP/s reached, and the share of an H100's dense bfloat16 rate; nothing where the operations are not counted."""
    if tflop is None:
        return {}
    reached = tflop / (ms / 1000)
    return {"tflops": round(reached, 1), "utilisation_of_bf16_peak": round(reached / H100_DENSE_BF16_TFLOPS, 3)}


def difference(result: torch.Tensor, reference: torch.Tensor) -> float:
    """||result - reference|| / ||reference||, in float32."""
    a, b = result.float(), reference.float()
    return float((a - b).norm() / b.norm())
