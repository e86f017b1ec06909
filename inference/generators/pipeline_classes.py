"""What is known of diffusers' text-to-image classes before one loads: defaults, passes a step, names of text states.

A table, so that planning and counting import no diffusers; tests hold it against the installed signatures. A class that
is not in it draws as well: it is read when it is loaded, gets one image at a time, and costs nobody knows what.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.model_store import resolve_model
from schemas.errors import InputError, MissingWeightsError

INDEX = "model_index.json"


@dataclass(frozen=True)
class PipelineClass:
    """Of one class, as diffusers 0.42 has it."""

    steps: int
    """Default of `num_inference_steps`."""
    guidance: float | None
    """Default of `guidance_scale`; None for a class that has none, or sets it to None."""
    guided_above: float | None = None
    """With a `guidance_scale` above this the class does two passes a step; None: guidance costs no pass."""
    true_cfg_scale: float | None = None
    """Default of the argument of that name; above 1 two passes a step. None for a class without."""
    text_length: int | None = None
    """Default of `max_sequence_length`; None for a class without."""
    text_states: tuple[str, ...] = ()
    """What `encode_prompt` returns, by the names that the call takes; "" for what it does not take. Empty: texts are
    encoded within each call."""
    distills_guidance: bool = False
    """Whether a folder may say `is_distilled`, and the class does one pass a step then, whatever the guidance."""
    guided_by_folder: bool = False
    """Whether guidance is a component of the folder, `guider`, which does two passes a step where there is one."""
    patches_a_side: int = 1
    """So many of the denoiser's patches, side by side, are the least that an image may be wider by."""
    token_px: int | None = 16
    """Side of the pixels that one token of its transformer stands for; None: it is no transformer over tokens, or
    nobody has looked."""
    alone: str = ""
    """Why an image depends on the others of its batch, which is then of one image; empty where it does not."""


_BOTH = ("prompt_embeds", "negative_prompt_embeds")
_POOLED = (*_BOTH, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
_MASKED = ("prompt_embeds", "prompt_embeds_mask")

PIPELINE_CLASSES: dict[str, PipelineClass] = {
    "FluxPipeline": PipelineClass(
        28, 3.5, true_cfg_scale=1.0, text_length=512, text_states=("prompt_embeds", "pooled_prompt_embeds", "")
    ),
    "Flux2KleinPipeline": PipelineClass(
        50, 4.0, 1.0, text_length=512, text_states=("prompt_embeds", ""), distills_guidance=True
    ),
    "Flux2Pipeline": PipelineClass(50, 4.0, text_length=512, text_states=("prompt_embeds", "")),
    "QwenImagePipeline": PipelineClass(50, None, true_cfg_scale=4.0, text_length=512, text_states=_MASKED),
    "ZImagePipeline": PipelineClass(50, 5.0, 0.0, text_length=512, text_states=_BOTH),
    "StableDiffusion3Pipeline": PipelineClass(28, 7.0, 1.0, text_length=256, text_states=_POOLED),
    "SanaPipeline": PipelineClass(
        20,
        4.5,
        1.0,
        text_length=300,
        text_states=(
            "prompt_embeds",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "negative_prompt_attention_mask",
        ),
        token_px=32,
    ),
    "StableDiffusionXLPipeline": PipelineClass(50, 5.0, 1.0, text_states=_POOLED, token_px=None),
    "HunyuanImagePipeline": PipelineClass(
        50,
        None,
        guided_by_folder=True,
        token_px=32,
        alone="its guider is chosen by whether any text of the batch holds words in quotes",
    ),
    "Krea2Pipeline": PipelineClass(28, 4.5, 0.0, text_length=512, text_states=_MASKED),
    "OvisImagePipeline": PipelineClass(50, 5.0, 1.0, text_length=256, text_states=(*_BOTH, "", "")),
    "GlmImagePipeline": PipelineClass(
        50,
        1.5,
        1.0,
        text_length=2048,
        patches_a_side=2,
        alone="its image tokens are sampled with one generator for the whole batch",
    ),
}

CLASSES_ON_THE_HUB: dict[str, str] = {
    "black-forest-labs/FLUX.1-dev": "FluxPipeline",
    "black-forest-labs/FLUX.1-schnell": "FluxPipeline",
    "black-forest-labs/FLUX.2-klein-4B": "Flux2KleinPipeline",
    "black-forest-labs/FLUX.2-dev": "Flux2Pipeline",
    "Qwen/Qwen-Image": "QwenImagePipeline",
    "Tongyi-MAI/Z-Image": "ZImagePipeline",
    "Tongyi-MAI/Z-Image-Turbo": "ZImagePipeline",
    "stabilityai/stable-diffusion-3.5-large": "StableDiffusion3Pipeline",
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": "SanaPipeline",
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
}
"""So that what is planned need not be here."""
DISTILLED_ON_THE_HUB = ("black-forest-labs/FLUX.2-klein-4B",)


def class_name_of(folder: Path) -> str:
    """The class that a pipeline's folder names. InputError (file) where it is no folder of a pipeline, or its class is
    code of its own."""
    return _class_in(model_index(folder), folder)


def model_index(folder: Path) -> dict[str, Any]:
    """What the folder of a pipeline says of itself. InputError (file)."""
    expected = f"a folder of diffusers, with {INDEX}"
    try:
        said = json.loads((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError("is no folder of a pipeline", file=str(folder), field="model", expected=expected) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"does not read: {error}", file=str(folder / INDEX), expected=expected) from error
    if not isinstance(said, dict):
        raise InputError("does not read: no object", file=str(folder / INDEX), expected=expected)
    return said


def _class_in(said: dict[str, Any], folder: Path) -> str:
    name = said.get("_class_name")
    if isinstance(name, list):
        raise InputError(
            f"its class {name} is code of its own, which is not run",
            file=str(folder / INDEX),
            field="_class_name",
            expected="a class of diffusers",
        )
    if not isinstance(name, str) or not name:
        raise InputError("names no class", file=str(folder / INDEX), field="_class_name", expected="FluxPipeline, ...")
    return name


@dataclass(frozen=True)
class PlannedPipeline:
    """A model as its folder, or else its hub id, lets it be known before it is loaded."""

    class_name: str | None
    """None where neither says."""
    is_distilled: bool = False
    """Whether it is distilled to do without guidance."""
    has_guider: bool = True


def planned_pipeline(model: str) -> PlannedPipeline:
    """What is known of a model. InputError for a folder that is no pipeline's, and where no model is named."""
    if not model:
        raise InputError("no model is named", field="generator.diffusers.model", expected="a folder, or a hub id")
    try:
        folder = resolve_model(model)
    except MissingWeightsError:
        return PlannedPipeline(CLASSES_ON_THE_HUB.get(model), model in DISTILLED_ON_THE_HUB)
    said = model_index(folder)
    guider = said.get("guider")
    return PlannedPipeline(
        _class_in(said, folder), said.get("is_distilled") is True, isinstance(guider, list) and bool(guider[0])
    )
