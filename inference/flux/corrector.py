"""The corrector: FLUX draws again, from the flawed image and the reflection that says what is wrong with it.

Its folder holds `pytorch_lora_weights.safetensors`, in the form `FluxPipeline.save_lora_weights` writes, and
`corrector.json`: how the condition enters (`ConditionConfig`), how large it is, and of which base model it is. The
published corrector has no such description: its folder is taken for what the paper's code trains.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.drawn_pixels import pixels_of
from inference.flux.condition_config import ConditionConfig
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig, draw_in_batches
from inference.flux.latents import (
    Posterior,
    condition_size,
    decode_latents,
    drawable,
    encode_images,
    token_grid,
    token_px,
)
from inference.interfaces import Generator
from inference.vlm.endpoint import Journal
from schemas.arrow import record_from_dict
from schemas.configuration import model_field, stable_seed
from schemas.errors import InputError
from schemas.image_size import ImageSize

if TYPE_CHECKING:
    import torch

    from inference.flux.conditioning import ConditionedFlux

log = logging.getLogger(__name__)

SEPARATOR = " [Reflexion] "
MIN_REFLECTION_CHARS = 5  # anything shorter is no reflection (interop)
WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class CorrectorDescription:
    """`corrector.json`."""

    condition: ConditionConfig = field(default_factory=ConditionConfig)
    condition_px: int = 512
    """Side of the flawed image as it is shown to the transformer; one that is not square is shown at its own aspect, in
    about as many tokens."""
    base_model: str = "black-forest-labs/FLUX.1-dev"
    guidance: float | None = None
    """Value of the guidance embedding that it draws with; None: the generator's."""


@dataclass(frozen=True)
class FluxCorrectorConfig:
    """Which LoRA corrects, and what it is shown; it draws with the search's FLUX. Defaults are the paper's reading;
    what the published search does otherwise is said beside each."""

    lora: str = model_field("diffusion-cot/FLUX-Corrector")
    """Folder that `python -m trainers corrector` wrote, or one with the published corrector's file, or its hub id;
    empty for none."""
    num_steps: int = 0
    """Denoising steps of a corrected image; 0: the generator's. The published search takes 28 where it draws with
    30."""
    condition_latents: Posterior = "mode"
    """What of the VAE's posterior shows the flawed image: its mode, or a sample (seeded by the image's seed), as the
    published code does."""
    separator: str = SEPARATOR
    """Between prompt and reflection. The corrector was trained with ` [Reflexion] `; the published search says
    ` [Reflexion]: `."""
    clip_reads: Literal["prompt", "everything"] = "prompt"
    """What CLIP reads: the prompt, as in training, or all that T5 reads, as in the published search."""

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise InputError(f"{self.num_steps} steps", field="corrector.flux.num_steps", expected="0 or more")

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of one image, on a generator that takes `generator_passes`."""
        return self.num_steps or generator_passes

    def open(self, generator: Generator, journal: Journal | None = None) -> FluxCorrector:
        """Load it onto a FLUX that is loaded already. MissingWeightsError; InputError for another generator."""
        del journal  # it works in this process: asked again, it draws the same
        if not isinstance(generator, FluxGenerator):
            raise InputError(
                f"a corrector of kind 'flux' on a {type(generator).__name__}",
                field="corrector.kind",
                expected="a generator of kind flux",
            )
        return FluxCorrector(self, generator)


def corrector_text(prompt: str, reflection: str, separator: str = SEPARATOR) -> str:
    """What T5 reads; CLIP reads the prompt alone."""
    return prompt if len(reflection.strip()) < MIN_REFLECTION_CHARS else f"{prompt}{separator}{reflection.strip()}"


def read_description(folder: Path) -> CorrectorDescription:
    """Of a folder with weights alone, the published values. InputError for a folder that is no corrector."""
    described, weights = folder / "corrector.json", folder / WEIGHTS
    if weights.is_file() and not described.exists():
        rank, alpha = _rank_and_alpha(weights)
        log.warning("%s has no corrector.json: taken for a published corrector of rank %d", folder, rank)
        return CorrectorDescription(ConditionConfig(rank=rank, alpha=alpha))
    try:
        return record_from_dict(CorrectorDescription, json.loads(described.read_text()))
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is no corrector: {error}",
            expected=f"a folder that `python -m trainers corrector` wrote, or one with a FLUX LoRA as {WEIGHTS}",
        ) from error


def _rank_and_alpha(weights: Path) -> tuple[int, float]:
    """Of a LoRA file, without reading its tensors. alpha: its header's; the rank without one, as in diffusers."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "numpy") as file:
            names = [name for name in file.keys() if name.endswith(".lora_A.weight")]  # noqa: SIM118
            ranks = {file.get_slice(name).get_shape()[0] for name in names}
            header = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, ValueError) as error:
        raise InputError(f"{weights} does not read: {error}", expected="a file of safetensors") from error
    if len(ranks) != 1:
        raise InputError(
            f"{weights} is no corrector's LoRA (ranks {sorted(ranks)})", expected="lora_A and lora_B of one rank"
        )
    rank = ranks.pop()
    return rank, float(header.get("transformer.lora_alpha", rank))


def save_corrector(folder: Path, model: ConditionedFlux, description: CorrectorDescription) -> None:
    """LoRA and description. An alpha that is not the rank is in the LoRA's header too, where diffusers reads it."""
    import torch
    from diffusers import FluxPipeline

    tensors: dict[str, Any] = {
        name: value.to(torch.bfloat16).contiguous() for name, value in model.lora.to_file_tensors().items()
    }
    rank, alpha = model.config.rank, model.config.alpha
    header = {"r": rank, "lora_alpha": alpha, "target_modules": list(model.lora.names)}
    FluxPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=tensors,
        weight_name=WEIGHTS,
        transformer_lora_adapter_metadata=header if alpha != rank else None,
    )
    (folder / "corrector.json").write_text(json.dumps(asdict(description), indent=2) + "\n")


def load_lora(model: ConditionedFlux, folder: Path) -> None:
    """A corrector's weights into `model`, whose condition is the corrector's."""
    from safetensors.torch import load_file

    model.lora.load_file_tensors(load_file(folder / WEIGHTS))


class FluxCorrector:
    """Draws images again. An image depends on (flawed image, prompt, reflection, seed, configuration) alone."""

    def __init__(self, config: FluxCorrectorConfig, generator: FluxGenerator) -> None:
        """generator: draws, and is shared. MissingWeightsError."""
        from inference.flux.conditioning import ConditionedFlux
        from inference.sound_weights import sound_model

        folder = sound_model(config.lora)
        self.description, self.generator, self.config = read_description(folder), generator, config
        self.model = ConditionedFlux(self.generator.pipeline.transformer, self.description.condition)
        load_lora(self.model, folder)
        self.model.to(generator.config.device).eval()
        if generator.config.compile == "blocks":
            from inference.flux.conditioned_blocks import run_blocks

            run_blocks(self.model, compiled=True)

    @classmethod
    def of(cls, model: ConditionedFlux, description: CorrectorDescription, generator: FluxGenerator) -> FluxCorrector:
        """Around a model in training."""
        corrector = cls.__new__(cls)
        corrector.description, corrector.generator, corrector.model = description, generator, model
        corrector.config = FluxCorrectorConfig()
        return corrector

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """images uint8 (H, W, 3), the flawed ones -> as many of their sizes, rounded down to whole tokens."""
        return list(self.draw(images, prompts, reflections, seeds))

    def draw(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> Iterator[np.ndarray]:
        """What `correct` gives, each as soon as its micro-batch is drawn."""
        if not len(images) == len(prompts) == len(reflections) == len(seeds):
            raise InputError(
                f"{len(images)} images, {len(prompts)} prompts, {len(reflections)} reflections, {len(seeds)} seeds",
                expected="one of each",
            )
        separator, clip_all = self.config.separator, self.config.clip_reads == "everything"
        texts = [corrector_text(p, r, separator) for p, r in zip(prompts, reflections, strict=True)]
        both = list(zip(texts, texts if clip_all else prompts, strict=True))
        lengths = {text: self.generator.text_length(text) for text in dict.fromkeys(texts)}
        encoded = {
            (text, prompt): self.generator.encode_text(text, lengths[text], clip_text=prompt)
            for text, prompt in dict.fromkeys(both)
        }

        step_px = token_px(self.generator.pipeline)
        sizes = [drawable(ImageSize.of(image), step_px) for image in images]

        def draw(batch: list[int]) -> list[np.ndarray]:
            some = [encoded[both[i]] for i in batch]
            return self._draw([images[i] for i in batch], some, [seeds[i] for i in batch], sizes[batch[0]])

        shapes = [(lengths[text], size) for text, size in zip(texts, sizes, strict=True)]
        yield from draw_in_batches(shapes, self.generator.config.batch_size, draw)

    def _draw(
        self,
        images: Sequence[np.ndarray],
        texts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        seeds: Sequence[int],
        size: ImageSize,
    ) -> list[np.ndarray]:
        import torch

        from inference.flux.conditioning import place_condition

        pipeline = self.generator.pipeline
        shown = condition_size(size, self.description.condition_px, token_px(pipeline))
        embeds, pooled = (torch.cat([text[i] for text in texts]) for i in (0, 1))
        with torch.no_grad():
            noise = [stable_seed("condition", seed) for seed in seeds]
            condition = encode_images(pipeline, images, shown, self.config.condition_latents, noise)
            grids = (token_grid(pipeline, one) for one in (shown, size))
            ids = place_condition(self.description.condition, *grids).to(condition)
            latents = sample(self.model, pipeline, self._drawing, embeds, pooled, condition, ids, seeds, size)
            decoded = decode_latents(pipeline, latents, size)
        return pixels_of(decoded)

    @property
    def _drawing(self) -> FluxGeneratorConfig:
        guidance, generator = self.description.guidance, self.generator.config
        steps = self.config.num_steps or generator.num_steps
        return replace(generator, num_steps=steps, guidance=generator.guidance if guidance is None else guidance)


def sample(
    model: ConditionedFlux,
    pipeline: Any,
    config: FluxGeneratorConfig,
    prompt_embeds: torch.Tensor,
    pooled: torch.Tensor,
    condition: torch.Tensor | None,
    ids: torch.Tensor | None,
    seeds: Sequence[int],
    size: ImageSize,
) -> torch.Tensor:
    """Packed latents (B, N, channels): `FluxPipeline`'s own schedule and noise, with the condition at each step."""
    import torch
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

    device = prompt_embeds.device
    generators = [torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds]
    channels = pipeline.transformer.config.in_channels // 4
    latents, image_ids = pipeline.prepare_latents(
        len(seeds), channels, size.height, size.width, prompt_embeds.dtype, device, generators
    )
    scheduler = pipeline.scheduler
    settings = scheduler.config
    shift = calculate_shift(
        latents.shape[1],
        settings.get("base_image_seq_len", 256),
        settings.get("max_image_seq_len", 4096),
        settings.get("base_shift", 0.5),
        settings.get("max_shift", 1.15),
    )
    sigmas: Any = np.linspace(1.0, 1 / config.num_steps, config.num_steps)
    timesteps: Any
    timesteps, _ = retrieve_timesteps(scheduler, config.num_steps, device, sigmas=sigmas, mu=shift)
    scheduler.set_begin_index(0)
    guidance = torch.full([len(seeds)], config.guidance, device=device, dtype=torch.float32)
    prefix = None
    if condition is not None and ids is not None and model.config.attention == "cached":
        prefix = model.prefix_of(prompt_embeds, pooled, condition, ids)
    for t in timesteps:
        timestep = t.expand(len(seeds)).to(latents.dtype) / 1000
        velocity = model(latents, timestep, guidance, prompt_embeds, pooled, image_ids, condition, ids, prefix)
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    return latents
