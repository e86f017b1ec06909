"""One training step: the corrector's LoRA, and the dual-process loss of a VLM on an image that FLUX is drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.gpu_corrector import random_condition
from benchmarks.gpu.gpu_generation import Note
from benchmarks.gpu.gpu_models import Size, build_vlm, random_inputs
from benchmarks.gpu.gpu_timing import Stopwatch
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioned_blocks import run_blocks
from inference.flux.conditioning import ConditionedFlux

VLM_PATCH_PX = 14
VLM_IMAGE_PX = {512: 504, 64: 56}  # the nearest multiple of two patches, as Qwen2.5-VL resizes
QUESTION_TOKENS = 64


class TrainingBenchmark:
    """Parts 6 and 7."""

    def __init__(self, pipeline: Any, size: Size, watch: Stopwatch, dtype: torch.dtype, note: Note) -> None:
        self.pipeline, self.size, self.watch, self.dtype, self.note = pipeline, size, watch, dtype, note

    def corrector(self, batch_sizes: tuple[int, ...] = (1, 2, 4)) -> None:
        """A step of the corrector's training: joint, checkpointed, Prodigy; float32 LoRA, everything else frozen."""
        from trainers.loop import OptimizerConfig, make_optimizer

        model = self._model(ConditionConfig(rank=self.size.corrector_rank, alpha=float(self.size.corrector_rank)))
        run_blocks(model, recomputed=True)
        parameters = list(model.lora.parameters())
        self.note("corrector_lora_parameters", sum(p.numel() for p in parameters))
        optimizer = make_optimizer(parameters, OptimizerConfig())
        self._corrector_step(model, parameters, optimizer, 1, autocast=True)()  # makes the optimizer's state
        for autocast in (True, False):
            for batch in batch_sizes if not autocast else batch_sizes[:1]:
                self.watch.need(2 * batch if self.watch.device != "cpu" else 0)
                self.watch.forget_peak()
                step = self._corrector_step(model, parameters, optimizer, batch, autocast)
                name = f"corrector_step_batch_{batch}{'_autocast' if autocast else ''}"
                try:
                    alone = batch == 1 and not autocast  # the others take long and are near this one a sample
                    ms = self.watch.median_ms(step, repeats=2 if alone else 1, warmups=1 if alone else 0)
                except torch.OutOfMemoryError:
                    self.note(name, "out of memory")
                    return
                self.note(name, {"ms": ms, "ms_a_sample": round(ms / batch, 2), "peak_gib": self.watch.peak_gib()})

    def _corrector_step(
        self, model: ConditionedFlux, parameters: list[Any], optimizer: Any, batch: int, autocast: bool
    ) -> Callable[[], None]:
        device = self.watch.device
        x = random_inputs(self.size, self.size.image_px, batch, device, self.dtype)
        condition, ids = random_condition(self.size, batch, device, self.dtype)
        noise = torch.randn_like(x.latents)

        def step() -> None:
            noisy = torch.lerp(x.latents, noise, x.timestep[:, None, None])
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                ones = torch.ones_like(x.guidance)
                velocity = model(noisy, x.timestep, ones, x.prompt_embeds, x.pooled, x.image_ids, condition, ids)
            (velocity.float() - (noise - x.latents).float()).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
            optimizer.zero_grad()

        return step

    def dual_process(self) -> None:
        """Latents, one forward pass, x0, VAE, VLM, loss of one token, back to a LoRA of rank 16 on every block."""
        device, size = self.watch.device, self.size
        vlm = build_vlm(size, device, self.dtype)
        vlm.gradient_checkpointing_enable({"use_reentrant": False})
        vlm.train()  # checkpointing works in training mode alone; nothing here drops out
        vae = self.pipeline.vae
        model = self._model(ConditionConfig(lora_on="all", rank=16, alpha=16.0))
        parameters = list(model.lora.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        x = random_inputs(size, size.dual_px, 1, device, self.dtype)
        noise = torch.randn_like(x.latents)
        ask = Question(vlm, size, device)
        for recomputed in (True, False):
            run_blocks(model, recomputed=recomputed)
            (vae.enable_gradient_checkpointing if recomputed else vae.disable_gradient_checkpointing)()
            vae.train(recomputed)
            losses: list[torch.Tensor] = []

            def step(losses: list[torch.Tensor] = losses) -> None:
                noisy = torch.lerp(x.latents, noise, x.timestep[:, None, None])
                velocity = model(noisy, x.timestep, x.guidance, x.prompt_embeds, x.pooled, x.image_ids, None, None)
                x0 = noisy - x.timestep[:, None, None] * velocity
                latents = self.pipeline._unpack_latents(x0, size.dual_px, size.dual_px, 8)
                image = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
                loss = ask(image)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.detach())

            self.watch.forget_peak()
            try:
                ms = self.watch.median_ms(step, repeats=3, warmups=2)
            except torch.OutOfMemoryError:
                self.note("dual_process_step", "out of memory")
                continue
            name = "dual_process_step" if recomputed else "dual_process_step_flux_and_vae_kept"
            finite = bool(torch.isfinite(torch.stack(losses)).all())
            self.note(name, {"ms": ms, "peak_gib": self.watch.peak_gib(), "finite": finite})
        vae.disable_gradient_checkpointing()
        vae.eval()

    def _model(self, config: ConditionConfig) -> ConditionedFlux:
        """With its LoRA in float32."""
        with torch.device(self.watch.device):
            return ConditionedFlux(self.pipeline.transformer, config)


class Question:
    """The loss of a one-token answer about an image, with gradient to the image's pixels."""

    def __init__(self, vlm: Any, size: Size, device: str) -> None:
        self.vlm, self.side_px = vlm, VLM_IMAGE_PX[size.dual_px]
        patches = self.side_px // VLM_PATCH_PX
        image_tokens = (patches // 2) ** 2
        config = vlm.config
        question = torch.randint(10, 200, (QUESTION_TOKENS,))
        ids = [*question[:8], config.vision_start_token_id, *[config.image_token_id] * image_tokens]
        ids += [config.vision_end_token_id, *question[8:], 7]
        self.ids = torch.tensor([[int(i) for i in ids]], device=device)
        self.positions = torch.arange(len(ids), device=device).expand(3, 1, -1)
        self.grid = torch.tensor([[1, patches, patches]], device=device)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """image (1, 3, H, W) in [-1, 1] -> cross-entropy of the last token."""
        size = (self.side_px, self.side_px)
        pixels = torch.nn.functional.interpolate(image.float(), size=size, mode="bicubic").to(image.dtype)
        logits = self.vlm(
            input_ids=self.ids,
            position_ids=self.positions,
            pixel_values=to_patches(pixels),
            image_grid_thw=self.grid,
            logits_to_keep=2,
            use_cache=False,
        ).logits
        return torch.nn.functional.cross_entropy(logits[:, -2].float(), self.ids[:, -1])


def to_patches(image: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) -> (patches, 3 * 2 * 14 * 14) in the order of Qwen2.5-VL's processor: squares of 2 x 2 patches."""
    side = image.shape[-1] // (2 * VLM_PATCH_PX)
    both = image[0].unsqueeze(0).expand(2, -1, -1, -1)  # a still image is two equal frames
    parts = both.reshape(2, 3, side, 2, VLM_PATCH_PX, side, 2, VLM_PATCH_PX)
    # (frame, channel, row, row in square, y, column, column in square, x) -> squares, then channel, frame, y, x
    return parts.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(side * side * 4, -1)
