"""What a pipeline of diffusers takes on a GPU: from its folder's own files where it is here, else from stated sizes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from inference.editors.editor import EditorCorrectorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from inference.generators.pipeline_classes import model_index
from inference.model_store import resolve_model
from pipelines import stated_figures as stated
from pipelines.stated_figures import GIB
from pipelines.weight_headers import numbers_in
from schemas.errors import MissingWeightsError

BYTES = {"none": None, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
"""Of a quantised weight; None: as `dtype` says."""


@dataclass(frozen=True)
class PipelineSize:
    """Parameters of a pipeline's parts: the networks that are called at every step, the text encoders, the rest."""

    denoiser: int
    text: int
    others: int


QWEN3_4B = 4_022_468_096
CLIP_L, CLIP_G = 123_650_304, 694_659_840
KLEIN = PipelineSize(3_875_544_576, QWEN3_4B, 84_046_115)
Z_IMAGE = PipelineSize(6_154_908_736, QWEN3_4B, stated.FLUX_VAE)

QWEN_IMAGE = PipelineSize(20_430_401_088, stated.QWEN_7B, 126_892_531)

STATED_SIZES: dict[str, PipelineSize] = {
    "Qwen/Qwen-Image": QWEN_IMAGE,
    "Qwen/Qwen-Image-Edit": QWEN_IMAGE,
    "Qwen/Qwen-Image-Edit-2509": QWEN_IMAGE,
    "Qwen/Qwen-Image-Edit-2511": QWEN_IMAGE,
    "black-forest-labs/FLUX.1-Kontext-dev": PipelineSize(
        stated.FLUX_TRANSFORMER, stated.FLUX_T5 + stated.FLUX_CLIP, stated.FLUX_VAE
    ),
    "black-forest-labs/FLUX.2-klein-4B": KLEIN,
    "Tongyi-MAI/Z-Image": Z_IMAGE,
    "Tongyi-MAI/Z-Image-Turbo": Z_IMAGE,
    "stabilityai/stable-diffusion-3.5-large": PipelineSize(
        8_056_627_520, CLIP_L + CLIP_G + stated.FLUX_T5, stated.FLUX_VAE
    ),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": PipelineSize(1_604_462_752, 2_614_341_888, 312_250_275),
    "stabilityai/stable-diffusion-xl-base-1.0": PipelineSize(2_567_463_684, stated.FLUX_CLIP + CLIP_G, 83_653_863),
}
"""By hub id, of models that are not here yet; a test counts them in the real architectures."""


def diffusers_memory(
    config: DiffusersGeneratorConfig | EditorCorrectorConfig, pixels: int = 0
) -> tuple[float | None, str]:
    """(GiB on a GPU at its peak, how that comes about); None where neither folder nor table says. pixels: of the
    largest image; 0: of one of the configuration's own size (an editor has none: 1024 x 1024)."""
    found = pipeline_size(config.model)
    if found is None:
        return None, "unknown: neither weights here nor a stated size"
    size, source = found
    full = 4.0 if config.dtype == "float32" else 2.0
    quantized = BYTES[config.quantization] or full
    denoiser = size.denoiser * quantized
    text = size.text * (quantized if config.quantization in ("int8", "int4") else full)
    resident = {
        "none": denoiser + text + size.others * full,
        "model": max(denoiser, text, size.others * full),
        "sequential": 2 * 2**30,  # a few layers at a time
    }[config.offload]
    own = 1024**2 if isinstance(config, EditorCorrectorConfig) else config.size_px**2
    working = stated.FLUX_WORKING_GIB * config.batch_size * (pixels or own) / 1024**2
    return (
        resident / GIB + working + stated.CUDA_CONTEXT_GIB,
        f"{source}: {resident / GIB:.1f} weights ({config.dtype}, quantization {config.quantization}, offload "
        f"{config.offload}) + {working:.1f} at work (an allowance: FLUX's) + {stated.CUDA_CONTEXT_GIB} CUDA",
    )


def pipeline_size(model: str) -> tuple[PipelineSize, str] | None:
    """A pipeline's parameters, and where the number is from. InputError for a folder that is no pipeline's."""
    try:
        folder = resolve_model(model)
    except MissingWeightsError:
        size = STATED_SIZES.get(model)
        return None if size is None else (size, "stated sizes")
    parts = {
        name: parameters_in(folder / name)
        for name, part in model_index(folder).items()
        if isinstance(part, list) and part and part[0] and (folder / name).is_dir()
    }
    if not any(parts.values()):
        return None
    denoiser = sum(number for name, number in parts.items() if name.partition("_")[0] in ("transformer", "unet"))
    text = sum(number for name, number in parts.items() if "encoder" in name)
    return PipelineSize(denoiser, text, sum(parts.values()) - denoiser - text), "derived from its folder"


def parameters_in(folder: Path) -> int:
    """Numbers in the safetensors of one component, by the files' headers: those that an index names, or the one file
    that is no variant (".fp16."). InputError for a file that does not read."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name.count(".") == 1]
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if index.name.count(".") == 3:  # of no variant
            named = set(json.loads(index.read_bytes()).get("weight_map", {}).values())
            files = [path for path in files if path.name in named]
    return sum(numbers_in(path) for path in files)
