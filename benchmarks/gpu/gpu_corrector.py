"""The corrector's forward pass: the condition in every step (joint), or its keys and values kept (cached)."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.gpu_generation import Note
from benchmarks.gpu.gpu_models import Size, built_on, random_inputs
from benchmarks.gpu.gpu_timing import Stopwatch, difference, utilisation
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioned_blocks import run_blocks
from inference.flux.conditioning import ConditionedFlux, condition_ids


def random_condition(size: Size, batch: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed latents (B, M, channels) and their ids (M, 3)."""
    side = size.condition_px // 16
    with torch.device(device):
        latents = torch.randn(batch, side * side, size.flux["in_channels"], dtype=dtype)
        return latents, condition_ids(side, side, shift=side).to(dtype)


class CorrectorBenchmark:
    """Part 5."""

    def __init__(self, transformer: Any, size: Size, watch: Stopwatch, dtype: torch.dtype, note: Note) -> None:
        self.transformer, self.size, self.watch, self.dtype, self.note = transformer, size, watch, dtype, note
        self.backend = "inductor" if watch.device != "cpu" else "aot_eager"
        self.inputs = random_inputs(size, size.image_px, 1, watch.device, dtype)
        self.condition = random_condition(size, 1, watch.device, dtype)
        with torch.device(watch.device):
            self.lora = ConditionedFlux(transformer, ConditionConfig(rank=size.corrector_rank)).lora.to(dtype)
            for up in self.lora.up.values():
                up.data.normal_(std=0.01)

    def without_condition(self, compiled: bool) -> None:
        """What the others are compared with: the same code without a condition."""
        self._measure(f"none_{_word(compiled)}", self._model("joint", False), condition=False, compiled=compiled)

    def joint(self, compiled: bool) -> None:
        """All tokens attend to all, in every step."""
        self._measure(f"joint_{_word(compiled)}", self._model("joint", False), condition=True, compiled=compiled)

    def cached(self, compiled: bool, text_copy: bool) -> None:
        """The condition's keys and values once for all steps; with or without a copy of the text."""
        name = f"cached{'_text_copy' if text_copy else ''}_{_word(compiled)}"
        self._measure(name, self._model("cached", text_copy), condition=True, compiled=compiled)

    def _model(self, attention: Any, text_copy: bool) -> ConditionedFlux:
        config = ConditionConfig(attention=attention, text_copy=text_copy, rank=1)
        with built_on(self.watch.device, self.dtype):
            model = ConditionedFlux(self.transformer, config)
        model.lora = self.lora
        return model

    def _measure(self, name: str, model: ConditionedFlux, condition: bool, compiled: bool) -> None:
        x = self.inputs
        latents, ids = self.condition if condition else (None, None)
        arguments = (x.latents, x.timestep, x.guidance, x.prompt_embeds, x.pooled, x.image_ids, latents, ids)
        found: dict[str, Any] = {}

        def make_prefix() -> Any:
            assert latents is not None
            assert ids is not None
            return model.prefix_of(x.prompt_embeds, x.pooled, latents, ids)

        with torch.no_grad():
            prefix, prefix_ms = None, 0.0
            if latents is not None and model.config.attention == "cached":
                if not compiled:
                    prefix_ms = self.watch.median_ms(make_prefix, repeats=3, warmups=1)
                prefix = make_prefix()
            reference = model(*arguments, prefix) if compiled else None
            if compiled:
                run_blocks(model, compiled=True, backend=self.backend)
                if prefix is not None:
                    found["prefix_first_call_s"] = round(self.watch.once_ms(make_prefix) / 1000, 2)
                    prefix_ms = self.watch.median_ms(make_prefix, repeats=3, warmups=1)
            found["prefix_ms"] = prefix_ms
            first_ms = self.watch.once_ms(lambda: model(*arguments, prefix))
            ms = self.watch.median_ms(lambda: model(*arguments, prefix), repeats=3, warmups=1)
            host_ms = self.watch.enqueue_ms(lambda: model(*arguments, prefix))
            result = model(*arguments, prefix)
        found |= {
            "ms": ms,
            "host_ms": host_ms,
            "first_call_s": round(first_ms / 1000, 2),
            "finite": bool(torch.isfinite(result).all()),
        }
        if reference is not None:
            found["difference_from_eager"] = difference(result, reference)
        if name.startswith("joint"):
            found |= utilisation(self.size.joint_tflop, ms)
        for steps in (28, 30):
            found[f"denoising_{steps}_steps_s"] = round((steps * ms + prefix_ms) / 1000, 3)
        self.note(name, found)


def _word(compiled: bool) -> str:
    return "compiled" if compiled else "eager"
