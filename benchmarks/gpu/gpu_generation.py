"""Generation: diffusers as it comes, against compiled blocks, the fastest attention kernel and 8-bit products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.attention_kernels import fastest_attention_kernel, measure_attention_kernels
from benchmarks.gpu.gpu_models import Inputs, Size, random_inputs
from benchmarks.gpu.gpu_timing import Stopwatch, difference, utilisation
from inference.flux.acceleration import (
    compile_blocks,
    put_layers,
    quantize_float8,
    use_attention_kernel,
)
from inference.flux.fused_blocks import fuse_blocks

Note = Callable[[str, Any], None]


class GenerationBenchmark:
    """Parts 1 to 4; each notes what it found as soon as it is known."""

    def __init__(self, pipeline: Any, size: Size, watch: Stopwatch, dtype: torch.dtype, note: Note) -> None:
        self.pipeline, self.size, self.watch, self.dtype, self.note = pipeline, size, watch, dtype, note
        self.transformer = pipeline.transformer
        self.inputs = random_inputs(size, size.image_px, 1, watch.device, dtype)
        self.forward_ms: dict[str, float] = {}
        self.decode_ms = 0.0
        self.reference: torch.Tensor | None = None
        self.eager_image: np.ndarray | None = None
        self.kernel: Any = "default"

    def eager(self) -> None:
        """diffusers as it comes, in the same dtype."""
        ms, self.reference = self._forward("eager", self.inputs, repeats=5)
        side = self.size.image_px // 8
        latents = torch.randn(1, 16, side, side, device=self.watch.device, dtype=self.dtype)
        with torch.no_grad():
            self.decode_ms = self.watch.median_ms(lambda: self.pipeline.vae.decode(latents), repeats=3, warmups=2)
        self.note("vae_decode_ms", self.decode_ms)
        self._note_images("eager", ms)

    def eager_image_drawn(self) -> None:
        """A whole image, to confirm the sum."""
        self.eager_image = self._draw("eager", self.forward_ms["eager"])

    def attention(self) -> None:
        """Which of PyTorch's attention kernels is the fastest; used from here on."""
        if self.watch.device != "cpu":
            heads, head_dim = self.size.flux["num_attention_heads"], self.size.flux["attention_head_dim"]
            tokens = self.inputs.latents.shape[1] + self.size.text_tokens
            kernels = measure_attention_kernels(tokens, heads, head_dim)
            self.kernel = fastest_attention_kernel(kernels)
            self.note("attention_ms", {name: round(ms, 3) for name, ms in kernels.items()})
            self.note("attention_kernel", self.kernel)
            use_attention_kernel(self.transformer, self.kernel)

    def compiled(self) -> None:
        """Compiled blocks, without quantisation."""
        self._compile()
        ms, _ = self._forward("compiled", self.inputs)
        self._note_images("compiled", ms)

    def fused(self) -> None:
        """The same with query, key and value in one product, GELU in the product's kernel where that gains."""
        gelu = self.watch.device == "cpu" or self._gelu_gains()
        fuse_blocks(self.transformer, gelu)
        self._compile()
        ms, _ = self._forward("fused", self.inputs)
        self._note_images("fused", ms)

    def float8(self) -> None:
        """The same with 8-bit products; the weights are put back afterwards."""
        replaced = quantize_float8(self.transformer)
        self.note("float8_layers", len(replaced))
        try:
            ms, _ = self._forward("float8", self.inputs)
            self._note_images("float8", ms)
            image = self._draw("float8", ms)
            if self.eager_image is not None:
                error = 255 * np.abs(image - self.eager_image)
                self.note("float8_image_mean_error_of_255", round(float(error.mean()), 3))
        finally:
            put_layers(self.transformer, replaced)

    def batches_eager(self) -> None:
        """Two and four images a forward pass, as diffusers comes; before anything is compiled."""
        for count in (2, 4):
            self.batch("eager", count)

    def batch(self, variant: str, count: int) -> None:
        """`count` images a forward pass: milliseconds an image."""
        inputs = random_inputs(self.size, self.size.image_px, count, self.watch.device, self.dtype)
        ms, _ = self._forward(f"{variant}_batch_{count}", inputs, repeats=3, warmups=1, images=count)
        self.note(f"{variant}_batch_{count}_forward_ms_an_image", round(ms / count, 3))

    def compiled_batch(self) -> None:
        """Four images a forward pass, compiled."""
        self.batch("compiled", 4)

    # Parts

    def _compile(self) -> None:
        compile_blocks(self.transformer, backend="inductor" if self.watch.device != "cpu" else "aot_eager")

    def _gelu_gains(self) -> bool:
        """Whether the product with GELU takes less than the product and, at the memory's speed, GELU after it."""
        width = self.size.flux["num_attention_heads"] * self.size.flux["attention_head_dim"]
        tokens = self.inputs.latents.shape[1] + self.size.text_tokens
        x, weight, bias = (
            torch.randn(*shape, device=self.watch.device, dtype=self.dtype)
            for shape in ((tokens, width), (4 * width, width), (4 * width,))
        )
        y = torch.addmm(bias, x, weight.t())

        def ten(run: Callable[[], Any]) -> float:
            return self.watch.median_ms(lambda: [run() for _ in range(10)]) / 10

        times = {
            "product": ten(lambda: torch.addmm(bias, x, weight.t())),
            "gelu": ten(lambda: torch.nn.functional.gelu(y, approximate="tanh")),
            "both_in_one_kernel": ten(lambda: torch._addmm_activation(bias, x, weight.t(), use_gelu=True)),
        }
        self.note("gelu_ms", times)
        return times["both_in_one_kernel"] < times["product"] + 0.8 * times["gelu"]

    def _forward(
        self, variant: str, inputs: Inputs, repeats: int = 5, warmups: int = 2, images: int = 1
    ) -> tuple[float, torch.Tensor]:
        self.watch.forget_peak()
        with torch.no_grad():
            first_ms = self.watch.once_ms(lambda: self.transformer(**inputs.named))
            ms = self.watch.median_ms(lambda: self.transformer(**inputs.named), repeats, warmups)
            host_ms = self.watch.enqueue_ms(lambda: self.transformer(**inputs.named))
            result = self.transformer(**inputs.named)[0]
        self.forward_ms[variant] = ms
        found: dict[str, Any] = {
            "ms": ms,
            "host_ms": host_ms,
            "first_call_s": round(first_ms / 1000, 2),
            "finite": bool(torch.isfinite(result).all()),
            "peak_gib": self.watch.peak_gib(),
        }
        tflop = self.size.forward_tflop
        found |= utilisation(None if tflop is None else images * tflop, ms)
        if self.reference is not None and self.reference.shape == result.shape:
            found["difference_from_eager"] = difference(result, self.reference)
        if images == 1 and "eager" in self.forward_ms:
            found["times_eager"] = round(self.forward_ms["eager"] / ms, 3)
        self.note(f"forward_{variant}", found)
        return ms, result

    def _note_images(self, variant: str, ms: float) -> None:
        """Sums: steps x forward + decode."""
        for steps in (28, 30):
            self.note(f"{variant}_image_{steps}_steps_s", round((steps * ms + self.decode_ms) / 1000, 3))

    def _draw(self, variant: str, ms: float) -> np.ndarray:
        """One whole image, to confirm the sum. float32 (H, W, 3) in [0, 1]."""
        steps = self.size.image_steps
        self.watch.need(2 * (steps * ms + self.decode_ms) / 1000)
        images: list[np.ndarray] = []

        def draw(steps: int = steps) -> None:
            output = self.pipeline(
                prompt_embeds=self.inputs.prompt_embeds,
                pooled_prompt_embeds=self.inputs.pooled,
                num_inference_steps=steps,
                guidance_scale=3.5,
                height=self.size.image_px,
                width=self.size.image_px,
                max_sequence_length=self.size.text_tokens,
                generator=torch.Generator("cpu").manual_seed(0),
                output_type="np",
            )
            images.append(output.images[0])

        draw(1)
        took_ms = self.watch.once_ms(draw)
        self.note(f"{variant}_image_drawn", {"steps": steps, "s": round(took_ms / 1000, 3)})
        return images[-1]
