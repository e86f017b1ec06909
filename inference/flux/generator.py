"""Text to image with a `diffusers.FluxPipeline`: FLUX.1-dev, -schnell, or another model of that class."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.drawn_pixels import pixels_of
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, execution_field, model_field, resumable_field
from schemas.errors import InputError, MissingWeightsError
from schemas.image_size import ImageSize

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

KEPT_TEXT_BYTES = 64 * 2**20  # of encoded texts: a search says the same again from round to round


@dataclass(frozen=True)
class FluxGeneratorConfig:
    """Which FLUX draws, and how. The defaults are FLUX.1-dev's as ReflectionFlow uses it (§4: 30 steps, guidance 3.5,
    1024 px)."""

    model: str = model_field("black-forest-labs/FLUX.1-dev")
    """Local folder or hub id, or a shipped model's name."""
    few_steps_lora: str = model_field("")
    """Folder of a LoRA that lets the model draw in fewer steps; empty for none."""
    lora: str = model_field("")
    """Folder of a LoRA on top, such as a distilled concept; empty for none."""
    lora_strength: float = added_field(1.0)
    """What `lora` is multiplied by: below 1 it changes less, what it was made for and all else."""
    num_steps: int = 30
    """Denoising steps."""
    guidance: float = 3.5
    """Value of the distilled guidance embedding; models without one ignore it."""
    true_cfg_scale: float = 1.0
    """True classifier-free guidance with an empty negative prompt; off at 1, else two forward passes a step."""
    shift: float = added_field(0.0)
    """Of the denoising times towards noise, of every size the same (SD 3, Esser et al. 2024, Eq. 23); 0: as the model's
    scheduler has it, which is by size for FLUX.1-dev."""
    shared_noise: float = added_field(0.0)
    """Share of the noise's variance that all images of one prompt have in common, 0 to 1: the more, the more alike they
    are, right ones and wrong ones; at 1 they are all the same."""
    size_px: int = 1024
    """Height and width, where no sizes are named."""
    text_lengths: tuple[int, ...] = (512,)
    """T5 tokens, padding included: a prompt is padded to the shortest of these that holds it, and cut at the last (FLUX
    sees the padding, so it belongs to the configuration)."""
    batch_size: int = resumable_field(1)
    """Images a forward pass; always this many, short batches are padded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of all weights and products."""
    quantization: Literal["none", "fp8", "fp8_dynamic", "int8"] = "none"
    """How the transformer's weights are kept: fp8 is cast to `dtype` layer by layer (half the memory, slower);
    fp8_dynamic multiplies in 8 bits (half the memory, faster on Hopper); int8 also the T5's, through bitsandbytes on a
    CUDA device. Changes images slightly."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: fused layers and one graph for each kind of block, made at the first images (half a minute) and faster
    from then on. Changes images by rounding. For drawing: adapters that are put on the transformer afterwards have no
    effect on fused layers (the corrector's LoRA does)."""
    attention: Literal["default", "flash", "cudnn", "efficient", "math"] = "default"
    """Which of PyTorch's attention kernels; cudnn is the fastest on Hopper. Changes images by rounding."""
    offload: Literal["none", "model", "sequential"] = execution_field("none")
    """What waits in main memory while it is not used: whole models (T5, then transformer, then VAE), or single layers
    (least memory, many times slower). Changes no image."""
    device: str = execution_field("cuda")
    """Where it computes: cpu, cuda, cuda:1."""

    @property
    def denoiser_passes_per_image(self) -> int:
        """Transformer forward passes for one image."""
        return self.num_steps * (2 if self.true_cfg_scale > 1 else 1)

    def check_sizes(self, sizes: Sequence[ImageSize]) -> None:
        """InputError for a size that the model in its folder cannot draw; nothing is loaded."""
        from inference.flux.latents import check_drawable
        from inference.model_store import resolve_model

        try:
            described = json.loads((resolve_model(self.model) / "vae" / "config.json").read_text())
            step_px = 2 ** len(described["block_out_channels"])  # a token is 2 x 2 of the VAE's pixels
        except MissingWeightsError:
            step_px = 16  # FLUX.1's own
        except (OSError, ValueError, KeyError):
            return  # whoever opens it says what it lacks
        check_drawable(sizes, step_px, "generator.sizes")

    def open(self, journal: Journal | None = None) -> FluxGenerator:
        """Load it. MissingWeightsError, InputError."""
        del journal  # it works in this process: asked again, it draws the same
        return FluxGenerator(self)


class FluxGenerator:
    """Draws images in micro-batches of one fixed shape, so that an image depends on (prompt, seed, config) alone."""

    def __init__(self, config: FluxGeneratorConfig) -> None:
        """Loads the pipeline. MissingWeightsError where the model is not on this machine."""
        import torch
        from diffusers import FluxPipeline

        from inference.flux.latents import check_drawable, token_px
        from inference.flux.lora import fuse_lora
        from inference.sound_weights import loaded_whole, sound_model

        if config.batch_size < 1 or config.num_steps < 1:
            raise InputError(
                f"batch_size {config.batch_size}, num_steps {config.num_steps}", expected="both at least 1"
            )
        if config.shift < 0:
            raise InputError(f"a shift of {config.shift}", field="shift", expected="0 or more; 1 changes no time")
        if not 0 <= config.shared_noise <= 1:
            raise InputError(f"{config.shared_noise}", field="shared_noise", expected="a share, 0 to 1")
        if not config.text_lengths or list(config.text_lengths) != sorted(set(config.text_lengths)):
            raise InputError(f"text lengths {config.text_lengths}", field="text_lengths", expected="numbers that rise")
        self.config = config
        # A text that is cut is named once, below; these two would print it all, padding included, for every batch.
        for name in ("diffusers.pipelines.flux.pipeline_flux", "transformers.tokenization_utils_base"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # The dtype is always named: without it, text encoders come in the file's type, the transformer in float32.
        dtype = getattr(torch, config.dtype)
        folder = sound_model(config.model)
        with loaded_whole(folder):
            self.pipeline: Any = FluxPipeline.from_pretrained(
                folder, dtype=dtype, quantization_config=_quantization(config)
            )
        if config.shift:
            scheduler = self.pipeline.scheduler
            self.pipeline.scheduler = scheduler.from_config(
                scheduler.config, use_dynamic_shifting=False, shift=config.shift
            )
        for lora, strength in ((config.few_steps_lora, 1.0), (config.lora, config.lora_strength)):
            if lora:
                if config.quantization == "int8":
                    raise InputError(
                        "a LoRA on int8 weights", field="quantization", expected="none, fp8 or fp8_dynamic"
                    )
                fuse_lora(self.pipeline, sound_model(lora), strength)
        self._step_px = token_px(self.pipeline)
        check_drawable([self._default_size], self._step_px, "size_px")
        if config.quantization == "fp8":
            self.pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        _place(self.pipeline, config)
        _accelerate(self.pipeline.transformer, config)
        self.pipeline.set_progress_bar_config(disable=True)
        self._device = self.pipeline._execution_device
        self._has_cut = False
        self._encoded: dict[tuple[str, str, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def warm_up(self, sizes: Sequence[ImageSize] = ()) -> None:
        """Compile what is to be compiled, for each text length and size, so that no image waits for it. InputError for
        a size that cannot be drawn."""
        self._check(sizes)
        if self.config.compile == "none":
            return
        for length in self.config.text_lengths:
            text = self.encode_text("", length)
            for size in dict.fromkeys(sizes) or [self._default_size]:
                count = self.config.batch_size
                self._draw([text] * count, [""] * count, range(count), None, size)

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sizes: Sequence[ImageSize] | None = None,
        clip_prompts: Sequence[str] | None = None,
    ) -> list[np.ndarray]:
        """One image uint8 (H, W, 3) for each (prompt, seed, size). Each distinct prompt's text is encoded once a call.

        sizes: squares of `size_px` without them. clip_prompts: what CLIP reads, if not the prompts.
        """
        return list(self.draw(prompts, seeds, sizes, clip_prompts))

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sizes: Sequence[ImageSize] | None = None,
        clip_prompts: Sequence[str] | None = None,
    ) -> Iterator[np.ndarray]:
        """What `generate` gives, each image as soon as its micro-batch is drawn."""
        if len(prompts) != len(seeds):
            raise InputError(f"{len(prompts)} prompts but {len(seeds)} seeds", expected="one seed for each prompt")
        if sizes is None:
            sizes = [self._default_size] * len(prompts)
        if len(prompts) != len(sizes):
            raise InputError(f"{len(prompts)} prompts but {len(sizes)} sizes", expected="one size for each prompt")
        self._check(sizes)
        lengths = {text: self.text_length(text) for text in dict.fromkeys(prompts)}
        both = list(zip(prompts, clip_prompts or prompts, strict=True))
        texts = {one: self.encode_text(one[0], lengths[one[0]], clip_text=one[1]) for one in dict.fromkeys(both)}
        negative = {n: self.encode_text("", n) for n in set(lengths.values()) if self.config.true_cfg_scale > 1}

        def draw(batch: list[int]) -> list[np.ndarray]:
            negative_text = negative.get(lengths[prompts[batch[0]]])
            drawn = [prompts[i] for i in batch], [seeds[i] for i in batch]
            return self._draw([texts[both[i]] for i in batch], *drawn, negative_text, sizes[batch[0]])

        shapes = [(lengths[text], size) for text, size in zip(prompts, sizes, strict=True)]
        yield from draw_in_batches(shapes, self.config.batch_size, draw)

    @property
    def _default_size(self) -> ImageSize:
        return ImageSize.square(self.config.size_px)

    def _check(self, sizes: Sequence[ImageSize]) -> None:
        from inference.flux.latents import check_drawable

        check_drawable(sizes, self._step_px)

    def text_length(self, text: str) -> int:
        """T5 tokens that a text is padded to, or cut at; the first one that is cut is named in the log."""
        num_tokens, longest = len(self.pipeline.tokenizer_2(text).input_ids), self.config.text_lengths[-1]
        if num_tokens > longest and not self._has_cut:
            self._has_cut = True
            log.warning("texts of more than %d tokens are cut, the first of them (%d): %s", longest, num_tokens, text)
        return next((n for n in self.config.text_lengths if n >= num_tokens), longest)

    def encode_text(self, text: str, length: int, clip_text: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """T5 states (1, length, d) and CLIP's pooled vector (1, d), of the same text unless CLIP gets another."""
        import torch

        first = text if clip_text is None else clip_text
        key = (first, text, length)
        if key not in self._encoded:
            with torch.no_grad():
                # The device is named: finding it out takes diffusers as long as encoding a short text does. Lists: in
                # place of an empty string T5 would be given CLIP's text.
                embeds, pooled, _ = self.pipeline.encode_prompt(
                    prompt=[first], prompt_2=[text], device=self._device, max_sequence_length=length
                )
            if (len(self._encoded) + 1) * embeds.nbytes > KEPT_TEXT_BYTES:
                self._encoded.clear()
            self._encoded[key] = (embeds, pooled)
        return self._encoded[key]

    def _draw(
        self,
        texts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        negative: tuple[torch.Tensor, torch.Tensor] | None,
        size: ImageSize,
    ) -> list[np.ndarray]:
        import torch

        from inference.flux.latents import partly_shared_noise

        config = self.config
        more: dict[str, Any] = {}
        if config.shared_noise:
            more["latents"] = partly_shared_noise(self.pipeline, prompts, seeds, size, config.shared_noise)
        if negative is not None:
            more |= {
                "true_cfg_scale": config.true_cfg_scale,
                "negative_prompt_embeds": negative[0].expand(len(texts), -1, -1),
                "negative_pooled_prompt_embeds": negative[1].expand(len(texts), -1),
            }
        output = self.pipeline(
            prompt_embeds=torch.cat([embeds for embeds, _ in texts]),
            pooled_prompt_embeds=torch.cat([pooled for _, pooled in texts]),
            num_inference_steps=config.num_steps,
            guidance_scale=config.guidance,
            height=size.height,
            width=size.width,
            max_sequence_length=config.text_lengths[-1],
            # Noise is drawn on the CPU, one generator an image: the same on every device and in every batch.
            generator=[torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds],
            output_type="np",
            **more,
        )
        return pixels_of(output.images)


def draw_in_batches(
    shapes: Sequence[Hashable], batch_size: int, draw: Callable[[list[int]], list[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Images 0, 1, ... in order, drawn `batch_size` at once from those of one shape: the text's padded length, and the
    image's size.

    draw: numbers of images -> the images. A batch that is not full repeats its last number.
    """
    waiting: dict[Hashable, list[int]] = {}
    for number, shape in enumerate(shapes):
        waiting.setdefault(shape, []).append(number)
    drawn: dict[int, np.ndarray] = {}
    for number, shape in enumerate(shapes):
        if number not in drawn:  # then it is the first that waits among those of its shape
            batch, waiting[shape] = waiting[shape][:batch_size], waiting[shape][batch_size:]
            drawn.update(zip(batch, draw(batch + batch[-1:] * (batch_size - len(batch))), strict=False))
        yield drawn.pop(number)


def _quantization(config: FluxGeneratorConfig) -> Any:
    """diffusers' configuration for weights that are quantised while they are read. InputError where that cannot be."""
    if config.offload != "none" and config.device == "cpu":
        raise InputError(f"offload {config.offload!r} on the CPU", field="offload", expected="none, or a CUDA device")
    if config.quantization != "none" and config.offload == "sequential":
        raise InputError("quantised weights cannot be offloaded layer by layer", field="offload", expected="model")
    if config.compile != "none" and (config.quantization in ("fp8", "int8") or config.offload == "sequential"):
        raise InputError(
            f"compiled blocks with quantization {config.quantization!r} and offload {config.offload!r}",
            field="compile",
            expected="none, or quantization none or fp8_dynamic, and no layer-by-layer offload",
        )
    if config.quantization != "int8":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "quantization 'int8' needs bitsandbytes, which is not installed",
            field="quantization",
            expected="`pip install bitsandbytes`, or fp8, which needs nothing more",
        )
    from diffusers.quantizers import PipelineQuantizationConfig

    return PipelineQuantizationConfig(
        quant_backend="bitsandbytes_8bit",
        quant_kwargs={"load_in_8bit": True},
        components_to_quantize=["transformer", "text_encoder_2"],
    )


def _accelerate(transformer: Any, config: FluxGeneratorConfig) -> None:
    """After the weights are where they belong: 8-bit products are made for the device that a weight lies on."""
    from inference.flux.acceleration import compile_blocks, quantize_float8, use_attention_kernel

    if config.attention != "default":
        use_attention_kernel(transformer, config.attention)
    if config.compile == "blocks":
        from inference.flux.fused_blocks import fuse_blocks

        fuse_blocks(transformer)
    if config.quantization == "fp8_dynamic":
        quantize_float8(transformer, config.device)
    if config.compile == "blocks":
        compile_blocks(transformer)


def _place(pipeline: Any, config: FluxGeneratorConfig) -> None:
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=config.device)
    elif config.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=config.device)
    else:
        pipeline.to(config.device)
