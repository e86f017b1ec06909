"""A folder of diffusers opened by the class that it names, with what diffusers gives every class: type, quantisation,
offload, compiled blocks."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Protocol

from inference.generators.pipeline_classes import class_name_of, model_index
from schemas.errors import InputError

_BITS = {"int8": ("bitsandbytes_8bit", {"load_in_8bit": True}), "int4": ("bitsandbytes_4bit", {"load_in_4bit": True})}
_SMALL_TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")


class LoadsPipeline(Protocol):
    """How a configuration says what is opened, and how: for generators and editors alike."""

    @property
    def model(self) -> str:
        """Local folder, hub id or shipped name."""
        ...

    @property
    def lora(self) -> str:
        """Folder of a LoRA on top; empty for none."""
        ...

    @property
    def lora_strength(self) -> float:
        """What it is multiplied by."""
        ...

    @property
    def dtype(self) -> str:
        """float32, bfloat16 or float16, of all weights and products."""
        ...

    @property
    def quantization(self) -> str:
        """none, fp8, int8 or int4."""
        ...

    @property
    def compile(self) -> str:
        """none or blocks."""
        ...

    @property
    def offload(self) -> str:
        """none, model or sequential."""
        ...

    @property
    def device(self) -> str:
        """cpu, cuda, cuda:1."""
        ...


def open_pipeline(config: LoadsPipeline) -> Any:
    """The pipeline, where it computes. MissingWeightsError where the model is not here; InputError for a folder that is
    no pipeline's, weights that are not sound or not whole, and for means that do not go together."""
    import torch
    from diffusers import DiffusionPipeline

    from inference.flux.lora import fuse_lora
    from inference.sound_weights import loaded_whole, sound_model

    if not config.model:
        raise InputError("no model is named", field="model", expected="a folder of diffusers, or a hub id")
    _check_means(config)
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    folder = sound_model(config.model)
    pipeline_class(class_name_of(folder), folder)
    dtype = getattr(torch, config.dtype)
    more: dict[str, Any] = {}
    if config.quantization in _BITS:
        more["quantization_config"] = _quantization(config.quantization, folder)
    try:
        with loaded_whole(folder):
            pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **more)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, ImportError) as error:
        if isinstance(error, InputError):
            raise  # it says what is missing
        raise InputError(f"does not open: {error}", file=str(folder), expected="a whole pipeline") from error
    if config.lora:
        if not hasattr(pipeline, "load_lora_weights"):
            raise InputError(f"{type(pipeline).__name__} takes no LoRA", field="lora", expected="none")
        fuse_lora(pipeline, sound_model(config.lora), config.lora_strength)
    # Where a package for it is installed SDXL draws a mark into its images, elsewhere not.
    if getattr(pipeline, "watermark", None) is not None:
        pipeline.watermark = None
    if config.quantization == "fp8":
        for denoiser in denoisers(pipeline):
            denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=config.device)
    elif config.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=config.device)
    else:
        pipeline.to(config.device)
    if config.compile == "blocks":
        compile_blocks(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_class(name: str, folder: Path | None = None) -> type:
    """The class of diffusers of that name. InputError (file) where the installed one has none."""
    import diffusers

    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise InputError(
            f"diffusers {diffusers.__version__} has no pipeline {name}",
            file=None if folder is None else str(folder),
            expected="one of its classes, or a newer diffusers",
        )
    return found


def denoisers(pipeline: Any) -> list[Any]:
    """The networks that are called at every step: transformers or UNets. InputError where there is none."""
    found = [
        part
        for name, part in pipeline.components.items()
        if name.partition("_")[0] in ("transformer", "unet") and hasattr(part, "parameters")
    ]
    if not found:
        raise InputError(f"{type(pipeline).__name__} has no transformer and no UNet", field="model")
    return found


def say_once(pipeline: Any) -> None:
    """Each kind of warning of a pipeline's class once, for some come with every batch or text; none of masks that are
    not given: texts of one batch are as long as each other."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        begin = str(record.msg)[:40]
        if begin in said or "_mask` is not provided" in str(record.msg):
            return False
        said.add(begin)
        return True

    for name in (type(pipeline).__module__, "transformers.processing_utils"):
        logging.getLogger(name).addFilter(is_new)


def _check_means(config: LoadsPipeline) -> None:
    if config.offload != "none" and config.device == "cpu":
        raise InputError(f"offload {config.offload!r} on the CPU", field="offload", expected="none, or a CUDA device")
    if config.quantization != "none" and config.offload == "sequential":
        raise InputError("quantised weights cannot be offloaded layer by layer", field="offload", expected="model")
    if config.compile != "none" and (config.quantization != "none" or config.offload == "sequential"):
        raise InputError(
            f"compiled blocks with quantization {config.quantization!r} and offload {config.offload!r}",
            field="compile",
            expected="none, or no quantization and no layer-by-layer offload",
        )
    if config.lora and config.quantization in _BITS:
        raise InputError(
            f"a LoRA on {config.quantization} weights", field="quantization", expected="none or fp8, which keep one"
        )
    if config.quantization in _BITS and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"quantization {config.quantization!r} needs bitsandbytes, which is not installed",
            field="quantization",
            expected="`pip install bitsandbytes`, or fp8, which needs nothing more",
        )


def _quantization(kind: str, folder: Path) -> Any:
    """diffusers' configuration: the denoisers and the large text encoders, which are nearly all of a pipeline."""
    from diffusers.quantizers import PipelineQuantizationConfig

    backend, kwargs = _BITS[kind]
    named = {name: part for name, part in model_index(folder).items() if isinstance(part, list) and part[0]}
    large = [
        name
        for name, part in named.items()
        if name.partition("_")[0] in ("transformer", "unet")
        or ("encoder" in name and part[0] == "transformers" and part[1] not in _SMALL_TEXT_ENCODERS)
    ]
    return PipelineQuantizationConfig(quant_backend=backend, quant_kwargs=dict(kwargs), components_to_quantize=large)


def compile_blocks(pipeline: Any, backend: str = "inductor") -> None:
    """Each kind of block of the denoisers as one graph for each shape (regional compilation). InputError for networks
    that name no blocks."""
    from inference.flux.acceleration import allow_many_shapes

    allow_many_shapes()
    for denoiser in denoisers(pipeline):
        try:
            denoiser.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=backend)
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{type(denoiser).__name__} names no blocks that repeat, so that none can be compiled",
                field="compile",
                expected="none",
            ) from error
