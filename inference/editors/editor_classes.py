"""What is known of diffusers' editing classes before one is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from inference.generators.pipeline_classes import PIPELINE_CLASSES, PipelineClass

EditorName = Literal[
    "",
    "FluxKontextPipeline",
    "Flux2KleinPipeline",
    "Flux2KleinKVPipeline",
    "Flux2Pipeline",
    "QwenImageEditPipeline",
    "QwenImageEditPlusPipeline",
    "LongCatImageEditPipeline",
]


@dataclass(frozen=True)
class EditorClass:
    """Of one class, as diffusers 0.42 has it. Each shows the image to its network as more tokens at every step."""

    drawing: PipelineClass
    """`alone`, there: why it edits one image at a time."""
    opens: tuple[str, ...] = ()
    """Classes of whose folders, and loaded components, it can be made too."""
    least_px: int = 1
    """The shorter side of the smallest image that it takes."""
    distilled_only: bool = False
    """Without guidance of any kind: of a model that is not distilled it draws nothing of use."""

    def is_guided(self, guidance: float | None, true_cfg_scale: float | None, is_distilled: bool | None) -> bool:
        """Whether a step is two passes. None: the class's own."""
        own = self.drawing
        if own.true_cfg_scale is not None:
            return (own.true_cfg_scale if true_cfg_scale is None else true_cfg_scale) > 1
        if own.guided_above is None or (own.distills_guidance and is_distilled):
            return False
        chosen = own.guidance if guidance is None else guidance
        return chosen is not None and chosen > own.guided_above


_SHARED = "a list of images is several references for one edit"
_KLEIN = PIPELINE_CLASSES["Flux2KleinPipeline"]
_QWEN = PipelineClass(50, None, true_cfg_scale=4.0, text_length=512)

EDITOR_CLASSES: dict[str, EditorClass] = {
    "FluxKontextPipeline": EditorClass(
        PipelineClass(
            28, 3.5, true_cfg_scale=1.0, text_length=512, text_states=("prompt_embeds", "pooled_prompt_embeds", "")
        )
    ),
    "Flux2KleinPipeline": EditorClass(replace(_KLEIN, alone=_SHARED), least_px=64),
    "Flux2KleinKVPipeline": EditorClass(
        PipelineClass(4, None, text_length=512, text_states=_KLEIN.text_states, alone=_SHARED),
        opens=("Flux2KleinPipeline",),
        least_px=64,
        distilled_only=True,
    ),
    "Flux2Pipeline": EditorClass(replace(PIPELINE_CLASSES["Flux2Pipeline"], alone=_SHARED), least_px=64),
    "QwenImageEditPipeline": EditorClass(
        replace(_QWEN, alone="instructions are read with their images, and padded to the longest of a batch"),
        opens=("QwenImageEditPlusPipeline",),
    ),
    "QwenImageEditPlusPipeline": EditorClass(
        replace(_QWEN, alone="it takes one instruction at a time"), opens=("QwenImageEditPipeline",)
    ),
    "LongCatImageEditPipeline": EditorClass(
        PipelineClass(50, 4.5, guided_above=1.0, alone="it takes one instruction at a time")
    ),
}

EDITORS_ON_THE_HUB: dict[str, str] = {
    "black-forest-labs/FLUX.1-Kontext-dev": "FluxKontextPipeline",
    "black-forest-labs/FLUX.2-klein-4B": "Flux2KleinPipeline",
    "black-forest-labs/FLUX.2-klein-9b-kv": "Flux2KleinKVPipeline",
    "black-forest-labs/FLUX.2-dev": "Flux2Pipeline",
    "Qwen/Qwen-Image-Edit": "QwenImageEditPipeline",
    "Qwen/Qwen-Image-Edit-2509": "QwenImageEditPlusPipeline",
    "Qwen/Qwen-Image-Edit-2511": "QwenImageEditPlusPipeline",
    "meituan-longcat/LongCat-Image-Edit": "LongCatImageEditPipeline",
}
"""So that what is planned need not be here."""
