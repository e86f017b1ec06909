"""Text to image with any pipeline of diffusers that takes texts: Qwen-Image, FLUX.2, Z-Image, SD 3.5, SANA, SDXL."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from inference.drawn_pixels import pixels_of
from inference.flux.generator import draw_in_batches
from inference.generators.call_arguments import call_arguments, call_parameters
from inference.generators.pipeline_classes import (
    PIPELINE_CLASSES,
    PipelineClass,
    PlannedPipeline,
    planned_pipeline,
)
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, execution_field, model_field, resumable_field
from schemas.errors import CorruptDataError, InputError
from schemas.image_size import ImageSize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DiffusersGeneratorConfig:
    """Which pipeline draws, and how. What is left open is as its class has it."""

    model: str = model_field("")
    """Local folder of a diffusers pipeline, or a hub id: Qwen/Qwen-Image, Tongyi-MAI/Z-Image-Turbo, ..."""
    lora: str = model_field("")
    """Folder of a LoRA on top, such as one for few steps; empty for none."""
    lora_strength: float = added_field(1.0)
    """What `lora` is multiplied by: below 1 it changes less, what it was made for and all else."""
    steps: int = 0
    """Denoising steps; 0: the class's own default."""
    guidance: float | None = None
    """`guidance_scale`: classifier-free guidance, or what a distilled model was taught of it; none: the class's own."""
    true_cfg_scale: float | None = None
    """True classifier-free guidance of classes whose `guidance_scale` is an embedding (Qwen-Image: 4); above 1 it is
    two passes a step and brings its negative prompt along. None: the class's own."""
    negative_prompt: str = ""
    """What guidance leads away from; empty: a space where true guidance needs one, else the class's own."""
    text_length: int = 0
    """Tokens that a text is padded to or cut at, `max_sequence_length`; 0: the class's own."""
    more: str = ""
    """Further arguments of the class's call as a JSON object: {"cfg_normalization": true}."""
    size_px: int = 1024
    """Height and width."""
    batch_size: int = resumable_field(1)
    """Images a forward pass; always this many, short batches are padded. Classes that mix the images of a batch get
    one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of all weights and products."""
    quantization: Literal["none", "fp8", "int8", "int4"] = "none"
    """How weights are kept: fp8, the denoiser's, cast to `dtype` layer by layer; int8 and int4 also the text encoder's,
    through bitsandbytes on a CUDA device. Changes images slightly."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: one graph for each kind of block, made at the first images, and faster from then on. Changes images by
    rounding."""
    vae_tiling: bool = False
    """Decode in tiles: less memory for images beyond 1024 px. Changes images slightly."""
    offload: Literal["none", "model", "sequential"] = execution_field("none")
    """What waits in main memory while it is not used: whole models, or single layers (least memory, many times slower).
    Changes no image."""
    device: str = execution_field("cuda")
    """Where it computes: cpu, cuda, cuda:1."""

    @property
    def planned(self) -> PlannedPipeline:
        """What is known of the model before it is loaded. InputError for a folder that is no pipeline's."""
        return planned_pipeline(self.model)

    @property
    def num_steps(self) -> int:
        """Denoising steps an image. InputError where neither the configuration nor the model's class says."""
        return self.steps or self._known.steps

    @property
    def denoiser_passes_per_image(self) -> int:
        """Network forward passes for one image: two a step with guidance by a second pass. As `num_steps`."""
        return self.num_steps * (2 if self.is_guided else 1)

    @property
    def is_guided(self) -> bool:
        """Whether each step is two passes. As `num_steps`."""
        known, planned = self._known, self.planned
        scale = known.true_cfg_scale if self.true_cfg_scale is None else self.true_cfg_scale
        if scale is not None and scale > 1:
            return True
        if known.guided_by_folder:
            return planned.has_guider
        if known.guided_above is None or (known.distills_guidance and planned.is_distilled):
            return False
        guidance = known.guidance if self.guidance is None else self.guidance
        return guidance is not None and guidance > known.guided_above

    @property
    def _known(self) -> PipelineClass:
        """Of the model's class: from the table, else read in diffusers."""
        name = self.planned.class_name
        if name is None:
            raise InputError(
                f"how {self.model!r} draws is not known before it is here", field="model", expected="a folder, or steps"
            )
        return PIPELINE_CLASSES.get(name) or read_class(name)

    def open(self, journal: Journal | None = None) -> DiffusersGenerator:
        """Load it. MissingWeightsError, InputError."""
        del journal  # it works in this process: asked again, it draws the same
        return DiffusersGenerator(self)


def read_class(name: str) -> PipelineClass:
    """Of a class that is not in the table, from its signature: it draws one image at a time. InputError where diffusers
    has no such class."""
    from inference.generators.pipeline import pipeline_class

    takes = call_parameters(pipeline_class(name))

    def default(argument: str, kind: Any) -> Any:
        value = takes.get(argument)
        return value if isinstance(value, kind) and not isinstance(value, bool) else None

    return PipelineClass(
        steps=default("num_inference_steps", int) or 1,
        guidance=default("guidance_scale", (int, float)),
        guided_above=1.0 if "negative_prompt" in takes and "true_cfg_scale" not in takes else None,
        true_cfg_scale=default("true_cfg_scale", (int, float)),
        text_length=default("max_sequence_length", int),
        token_px=None,
        alone="it is not known whether its images depend on their batch",
    )


class DiffusersGenerator:
    """Draws in micro-batches of one fixed shape, so that an image depends on (prompt, seed, size, config) alone."""

    def __init__(self, config: DiffusersGeneratorConfig) -> None:
        """Loads the pipeline. MissingWeightsError where the model is not on this machine; InputError for one that draws
        no images from texts, and for a setting that its class lacks."""
        from inference.generators.pipeline import open_pipeline, say_once
        from inference.generators.text_states import TextStates

        if config.batch_size < 1:
            raise InputError(f"batches of {config.batch_size} images", field="batch_size", expected="1 or more")
        self.config = config
        self.pipeline: Any = open_pipeline(config)
        name = type(self.pipeline).__name__
        self._takes = call_parameters(type(self.pipeline))
        missing = [argument for argument in ("prompt", "generator", "output_type") if argument not in self._takes]
        needs = [argument for argument in ("image", "mask_image") if _is_required(self._takes, argument)]
        if missing or needs:
            reason = f"its call takes no {missing[0]}" if missing else f"its call needs an {needs[0]}"
            raise InputError(f"{name} is no text-to-image class: {reason}", field="model", expected="a generator")
        self._known = PIPELINE_CLASSES.get(name) or read_class(name)
        self._arguments = call_arguments(self.pipeline, config)
        self._arguments.setdefault("num_inference_steps", config.num_steps)
        if "use_resolution_binning" in self._takes:  # it would draw another size and scale that
            self._arguments["use_resolution_binning"] = False
        self.batch_size = 1 if self._known.alone else config.batch_size
        if self.batch_size < config.batch_size:
            log.warning("%s draws one image at a time: %s", name, self._known.alone)
        if config.vae_tiling:
            if not hasattr(getattr(self.pipeline, "vae", None), "enable_tiling"):
                raise InputError(f"the VAE of {name} decodes no tiles", field="vae_tiling", expected="false")
            self.pipeline.vae.enable_tiling()
        self.size_multiple = size_multiple(self.pipeline, self._known)
        self._check_size(ImageSize.square(config.size_px), "size_px")
        say_once(self.pipeline)
        self._texts = (
            TextStates(self.pipeline, self._known, self._arguments, config.is_guided)
            if self._known.text_states
            else None
        )

    def warm_up(self, sizes: Sequence[ImageSize] = ()) -> None:
        """Compile what is to be compiled, for each size, so that no image waits for it. InputError for a size that
        cannot be drawn."""
        for size in dict.fromkeys(sizes):
            self._check_size(size, "sizes")
        if self.config.compile != "none":
            for size in dict.fromkeys(sizes) or [ImageSize.square(self.config.size_px)]:
                self.generate([""], [0], [size])

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> list[np.ndarray]:
        """One image uint8 (H, W, 3) for each prompt and seed, of its size."""
        return list(self.draw(prompts, seeds, sizes))

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> Iterator[np.ndarray]:
        """What `generate` gives, each image as soon as its micro-batch is drawn. InputError for a size that the class
        would round; CorruptDataError for images that are no numbers."""
        asked = list(sizes) if sizes is not None else [ImageSize.square(self.config.size_px)] * len(prompts)
        if not len(prompts) == len(seeds) == len(asked):
            raise InputError(
                f"{len(prompts)} prompts, {len(seeds)} seeds, {len(asked)} sizes", expected="as many of each"
            )
        for size in dict.fromkeys(asked):
            self._check_size(size, "sizes")
        alike = [(size, self._shape_of(text)) for size, text in zip(asked, prompts, strict=True)]

        def draw(batch: list[int]) -> list[np.ndarray]:
            return self._draw([prompts[i] for i in batch], [seeds[i] for i in batch], asked[batch[0]])

        yield from draw_in_batches(alike, self.batch_size, draw)

    def _shape_of(self, text: str) -> Hashable:
        from inference.generators.text_states import shapes_of

        return () if self._texts is None else shapes_of(self._texts.of(text))

    def _draw(self, texts: Sequence[str], seeds: Sequence[int], size: ImageSize) -> list[np.ndarray]:
        import torch

        from inference.generators.text_states import batched

        given = dict(self._arguments)
        if self._texts is None:
            given["prompt"] = list(texts)
        else:
            if "negative_prompt" in self._takes:  # its states are among those of the texts
                given["negative_prompt"] = None
            given |= batched([self._texts.of(text) for text in texts])
        # Noise is drawn on the CPU, one generator an image: the same on every device and in every batch. What a class
        # draws beside it (image tokens that are sampled) comes from torch's own generators.
        device = self.pipeline._execution_device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seeds[0] % 2**63)
            output = self.pipeline(
                **given,
                height=size.height,
                width=size.width,
                generator=[torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds],
                output_type="np",
            )
        images = np.asarray(output.images)
        if any(getattr(output, "nsfw_content_detected", None) or []):
            raise CorruptDataError(f"the safety checker of the model blacked out the image of {texts[0][:200]!r}")
        if images.shape != (len(texts), size.height, size.width, 3):
            raise InputError(
                f"{type(self.pipeline).__name__} drew {images.shape}, asked for {len(texts)} of {size}", field="sizes"
            )
        return pixels_of(images)

    def _check_size(self, size: ImageSize, field: str) -> None:
        if size.width % self.size_multiple or size.height % self.size_multiple:
            raise InputError(
                f"{type(self.pipeline).__name__} cannot draw {size}",
                field=field,
                expected=f"width and height multiples of {self.size_multiple}",
            )


def size_multiple(pipeline: Any, known: PipelineClass) -> int:
    """Of what the sides of an image must be multiples: what the VAE makes smaller, times the denoiser's patch."""
    scale = getattr(pipeline, "vae_scale_factor", 8)
    processor = getattr(getattr(pipeline, "image_processor", None), "config", {})
    patch = getattr(getattr(pipeline, "transformer", None), "config", {}).get("patch_size", 1)
    patch = patch if isinstance(patch, int) else 1
    return int(np.lcm(scale * patch * known.patches_a_side, processor.get("vae_scale_factor", 1)))


def _is_required(takes: dict[str, Any], argument: str) -> bool:
    import inspect

    return argument in takes and takes[argument] is inspect.Parameter.empty
