"""What every micro trainer shares: budget in minutes, learning rate over it, progress lines, curves, export.

A trainer's loop looks like this:

    clock = TrainingClock(config.minutes, name="vae")
    state = load_checkpoint(path)                      # None on a first start
    if state: clock.spent_s = state["spent_s"]; ...
    while clock.running():
        set_learning_rate(optimizer, base * learning_rate_factor(clock.share(), warmup=0.02, decay=0.2))
        ...one step...
        clock.step(num_samples, {"loss": loss})        # prints a line now and then
        if clock.due("checkpoint", every_s=120): save_checkpoint(path, {..., "spent_s": clock.spent_s})
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.atomic_file import put_in_place, write_whole


@dataclass(frozen=True)
class MicroTrainingConfig:
    """One training of one micro model."""

    minutes: float  # training time in all, over every resumption
    work_dir: Path = Path("runs/micro")  # checkpoints, pools, curves, sample sheets; outside git
    out_dir: Path = Path("microworld/weights")  # each model writes its own folder below
    device: str = "cpu"
    seed: int = 0
    num_threads: int = 2
    data_workers: int = 0  # processes that make training data ahead; 0: none
    evaluate: bool = True  # whether the trained model is asked what it learnt
    from_exported: bool = False  # start from the weights in `out_dir`, at half the learning rate, not anew


LONGEST_STEP_S = 10.0


class TrainingClock:
    """Counts training seconds (checkpoints carry them, so a resumed training keeps its schedule) and reports."""

    def __init__(self, minutes: float, name: str, report_every_s: float = 20.0) -> None:
        self.budget_s = minutes * 60
        self.name = name
        self.spent_s = 0.0
        self.num_samples = 0
        self.num_steps = 0
        self.curve: list[dict[str, float]] = []
        self._report_every_s = report_every_s
        self._tick = time.perf_counter()
        self._last_done: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._since = (0.0, 0, 0)  # spent_s, num_samples, num_steps at the last report

    def share(self) -> float:
        """How much of the budget is spent, in [0, 1]."""
        return min(1.0, self.spent_s / self.budget_s) if self.budget_s > 0 else 1.0

    def running(self) -> bool:
        return self.spent_s < self.budget_s

    def pause(self) -> None:
        """Call after work that must not count as training (evaluation): restarts the stopwatch."""
        self._tick = time.perf_counter()

    def due(self, what: str, every_s: float) -> bool:
        """True once every `every_s` seconds of training; the first time after `every_s`."""
        if self.spent_s - self._last_done.setdefault(what, self.spent_s) < every_s:
            return False
        self._last_done[what] = self.spent_s
        return True

    def step(self, num_samples: int, metrics: dict[str, float]) -> None:
        """Account for one finished step; print a line with means of `metrics` every `report_every_s`."""
        now = time.perf_counter()
        self.spent_s += min(now - self._tick, LONGEST_STEP_S)  # more: the machine slept
        self._tick = now
        self.num_samples += num_samples
        self.num_steps += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        spent_s, samples, steps = self._since
        if self.spent_s - spent_s < self._report_every_s and self.running():
            return
        taken = max(1, self.num_steps - steps)
        row = {name: total / taken for name, total in self._sums.items()}
        rate = (self.num_samples - samples) / max(1e-9, self.spent_s - spent_s)
        eta_s = max(0.0, self.budget_s - self.spent_s)
        print(
            f"{self.name} {self.spent_s / 60:6.2f}/{self.budget_s / 60:.1f} min  step {self.num_steps}  "
            f"{self.num_samples} samples  {rate:.0f}/s  "
            + "  ".join(f"{name} {value:.4g}" for name, value in row.items())
            + f"  ETA {int(eta_s // 60)}:{int(eta_s % 60):02d}",
            flush=True,
        )
        self.curve.append({"minutes": self.spent_s / 60, "samples": self.num_samples, **row})
        self._sums = {}
        self._since = (self.spent_s, self.num_samples, self.num_steps)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "spent_s": self.spent_s,
            "num_samples": self.num_samples,
            "num_steps": self.num_steps,
            "curve": self.curve,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.spent_s, self.num_samples = state["spent_s"], state["num_samples"]
        self.num_steps, self.curve = state["num_steps"], state["curve"]
        self._since = (self.spent_s, self.num_samples, self.num_steps)


def learning_rate_factor(share: float, warmup: float = 0.01, decay: float = 0.2, final: float = 0.02) -> float:
    """Linear warm-up over the first `warmup` of the budget, linear decay to `final` over the last `decay`."""
    factor = min(1.0, (share + 1e-4) / warmup) if warmup > 0 else 1.0
    if share > 1 - decay:
        factor *= final + (1 - final) * max(0.0, (1 - share) / decay)
    return factor


def prepare_process(config: MicroTrainingConfig) -> None:
    """Threads, seed, and an allocator that keeps freed memory.

    glibc gives large freed tensors back to the kernel and faults them in anew at each step; keeping them made an
    eager step 1.9 times faster where page faults are dear (virtual machines).
    """
    import ctypes

    import torch

    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: only slower
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 28)


def export_folder(save: Callable[[Path], None], out_dir: Path) -> None:
    """Let `save` fill a temporary folder beside `out_dir`, then rename its files into place one by one."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = out_dir.with_name(f".{out_dir.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save(temporary)
    for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
        target = out_dir / path.relative_to(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(path, target)
    shutil.rmtree(temporary)


def save_curve(clock: TrainingClock, folder: Path) -> None:
    """`<name>_curve.json`, and a picture of every metric over minutes where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / f"{clock.name}_curve.json", json.dumps(clock.curve, indent=1) + "\n")
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [n for n in dict.fromkeys(n for row in clock.curve for n in row) if n not in ("minutes", "samples")]
    if not names:
        return
    figure, axes = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        rows = [row for row in clock.curve if name in row]
        axis.plot([row["minutes"] for row in rows], [row[name] for row in rows])
        axis.set(title=name, xlabel="minutes")
    figure.tight_layout()
    figure.savefig(folder / f"{clock.name}_curve.png", dpi=80)
    pyplot.close(figure)


def autocast(device: str, use_bf16: bool):
    """The context for a forward pass: bfloat16 autocast, or nothing."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16) if use_bf16 else nullcontext()


def bf16_is_faster(step: Callable[[bool], None], num_steps: int = 10) -> bool:
    """Time `num_steps` calls of step(use_bf16) each way, after two of each to warm up, and say which wins; bfloat16
    has lost, and is timed no longer, as soon as it took longer than all of float32's.

    Processors differ (AMX, AVX512_BF16, neither), so it is measured, never guessed from a name.
    """
    seconds = {False: math.inf, True: math.inf}
    steps = dict.fromkeys(seconds, 0)
    for use_bf16 in seconds:
        for _ in range(2):
            step(use_bf16)
        start, so_far = time.perf_counter(), 0.0
        while steps[use_bf16] < num_steps and so_far < seconds[False]:
            step(use_bf16)
            steps[use_bf16] += 1
            so_far = time.perf_counter() - start
        seconds[use_bf16] = so_far
    each = [seconds[use_bf16] / steps[use_bf16] for use_bf16 in (False, True)]
    print(f"a step takes {each[0]:.3f} s in float32, {each[1]:.3f} s in bfloat16 autocast", flush=True)
    return seconds[True] < seconds[False]
