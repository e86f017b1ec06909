"""FLUX at production size on one GPU: generation, corrector, training; each against plain diffusers in the same run.

`python -m benchmarks.gpu.gpu_flux --size full --device cuda --seconds-budget 130 --out DIR` writes `gpu_flux.json` anew
with each figure, so that a part that fails, or for which no time is left, loses nothing of the others. `--size tiny
--device cpu` runs the same code in a minute; its times say nothing.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.results_file import RESULTS, Circumstances, save


@dataclass(frozen=True)
class Arguments:
    """What is measured, where, and for how long."""

    size: Literal["full", "tiny"] = "full"
    device: Literal["cuda", "cpu"] = "cuda"
    seconds_budget: float = 600.0
    out: Path = RESULTS
    parts: tuple[str, ...] = ()
    """Of eager, eager_image, eager_batches, attention, joint_eager, cached_eager, text_copy_eager, none_eager,
    compiled, fused, float8, none, cached, corrector_steps, dual, joint, text_copy, compiled_batch; without this, all.
    `eager` is what most others are compared with."""
    name: str = "gpu_flux"
    """Of the result file."""


class Notes:
    """Figures by part."""

    def __init__(self, arguments: Arguments) -> None:
        self.started = time.perf_counter()
        command = (
            f"python -m benchmarks.gpu.gpu_flux --size {arguments.size} --device {arguments.device}"
            f" --seconds-budget {arguments.seconds_budget:g}"
            + (f" --parts {' '.join(arguments.parts)}" if arguments.parts else "")
        )
        self.circumstances = Circumstances.now(command)
        self.path = arguments.out / f"{arguments.name}{'' if arguments.size == 'full' else '_tiny'}.json"
        self.figures: dict[str, Any] = {}

    def note(self, part: str, name: str, value: Any) -> None:
        """Print a figure, and save it at once: whoever runs this may stop it at any time."""
        self.figures.setdefault(part, {})[name] = value
        print(f"{time.perf_counter() - self.started:6.1f} s  {part}  {name}: {value}", flush=True)
        self.save()

    def save(self) -> None:
        """All that is known so far."""
        save(
            "gpu_flux",
            self.circumstances,
            self.figures,
            compared_with="diffusers as it comes (eager, same dtype, same random weights), in the same run",
            target="compiled >= 1.5 x eager; FP8 >= 2 x eager; cached corrector <= 1.08 x the time without a condition",
            path=self.path,
        )


def run(arguments: Arguments) -> dict[str, Any]:
    """All parts in order. Returns the figures."""
    notes = Notes(arguments)
    import torch

    from benchmarks.gpu.gpu_corrector import CorrectorBenchmark
    from benchmarks.gpu.gpu_generation import GenerationBenchmark
    from benchmarks.gpu.gpu_models import FULL, TINY, build_pipeline, build_transformer
    from benchmarks.gpu.gpu_timing import OutOfTimeError, Stopwatch
    from benchmarks.gpu.gpu_training import TrainingBenchmark

    size = FULL if arguments.size == "full" else TINY
    device, dtype = arguments.device, torch.bfloat16 if arguments.device == "cuda" else torch.float32
    watch = Stopwatch(device, arguments.seconds_budget, notes.started)
    notes.note("machine", "device", torch.cuda.get_device_name() if device == "cuda" else "cpu")
    notes.note("machine", "torch", torch.__version__)
    notes.note("machine", "dtype", str(dtype))

    def part(name: str, measure: Callable[[], None], seconds: float = 0.0) -> None:
        """name: group and part. seconds: what it needs at least on a GPU."""
        group, _, which = name.partition(" ")
        if arguments.parts and which not in arguments.parts:
            return
        try:
            watch.need(seconds if device == "cuda" else 0.0)
            before = time.perf_counter()
            measure()
            notes.note(group, f"{which}_took_s", round(time.perf_counter() - before, 1))
        except OutOfTimeError as error:
            notes.note(group, f"{which}_skipped", str(error))
        except Exception as error:  # a part that fails must not lose the others; what failed is in the file
            notes.note(group, f"{which}_failed", f"{type(error).__name__}: {str(error)[:500]}")
            notes.note(group, f"{which}_failed_where", traceback.format_exc()[-1500:])
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    if device == "cuda":
        torch._logging.set_logs(recompiles=True)
    transformer = build_transformer(size, device, dtype)
    pipeline = build_pipeline(transformer, size, device, dtype)
    notes.note("machine", "flux_parameters", sum(p.numel() for p in transformer.parameters()))
    notes.note("machine", "built_after_s", round(time.perf_counter() - notes.started, 1))
    generation = GenerationBenchmark(pipeline, size, watch, dtype, lambda n, v: notes.note("generation", n, v))
    corrector = CorrectorBenchmark(transformer, size, watch, dtype, lambda n, v: notes.note("corrector", n, v))
    training = TrainingBenchmark(pipeline, size, watch, dtype, lambda n, v: notes.note("training", n, v))
    part("generation eager", generation.eager)
    part("generation eager_image", generation.eager_image_drawn, 15)
    part("generation eager_batches", generation.batches_eager, 10)
    part("generation attention", generation.attention)
    part("corrector joint_eager", lambda: corrector.joint(compiled=False), 3)
    part("corrector cached_eager", lambda: corrector.cached(compiled=False, text_copy=False), 3)
    part("corrector text_copy_eager", lambda: corrector.cached(compiled=False, text_copy=True), 3)
    part("corrector none_eager", lambda: corrector.without_condition(compiled=False), 3)
    part("generation compiled", generation.compiled, 25)
    part("generation fused", generation.fused, 25)
    part("generation float8", generation.float8, 20)
    part("corrector none", lambda: corrector.without_condition(compiled=True), 10)
    part("corrector cached", lambda: corrector.cached(compiled=True, text_copy=False), 15)
    part("training corrector_steps", training.corrector, 8)
    part("training dual", training.dual_process, 10)
    part("corrector joint", lambda: corrector.joint(compiled=True), 12)
    part("corrector text_copy", lambda: corrector.cached(compiled=True, text_copy=True), 15)
    part("generation compiled_batch", generation.compiled_batch, 15)
    print(f"saved {notes.path}", flush=True)
    return notes.figures


if __name__ == "__main__":
    run(tyro.cli(Arguments, description=__doc__))
