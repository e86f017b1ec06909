"""Which colour word fits a masked object, by CLIP: GenEval's own way (Ghosh et al., 2023; djghosh13/geneval,
`evaluate_images.py`), for the check of prompts and for the Mask2Former judge alike.

The object is pasted on grey and cropped to its box; its embedding is compared with those of ten colours, each the mean
of three sentences that name the object's class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.grounding.check import UNKNOWN_COLOR
from inference.grounding.object_crops import paste_and_crop
from inference.prompt_grammar import COLORS
from inference.sound_weights import sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

COLOR_TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")  # GenEval


@dataclass(frozen=True)
class ClipColorConfig:
    """Which CLIP, and the fixed shape it runs in."""

    model: str = model_field("openai/clip-vit-large-patch14")
    """Folder or hub id of a CLIP (GenEval: ViT-L/14)."""
    batch_size: int = 32
    """Objects, of as many images as there are, a forward pass; short batches are padded."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    def open(self) -> ClipColorNamer:
        """Load it. MissingWeightsError, InputError."""
        return ClipColorNamer(self)


class ClipColorNamer:
    """A `ColorNamer` whose words are `prompt_grammar.COLORS`; an empty mask gets "unknown"."""

    def __init__(self, config: ClipColorConfig) -> None:
        """MissingWeightsError; InputError for a model of another kind."""
        from transformers import AutoConfig, CLIPModel, CLIPProcessor

        self.config = config
        folder = sound_model(config.model)
        if (kind := AutoConfig.from_pretrained(folder).model_type) != "clip":
            raise InputError(f"{folder} holds a {kind} model", field="model", expected="a CLIPModel")
        model: Any = CLIPModel.from_pretrained(folder)
        self._clip: Any = model.to(config.device).eval().requires_grad_(False)
        self._clip_input: Any = CLIPProcessor.from_pretrained(folder)
        self._weights = cache(self._weights_of)

    def name_colors(
        self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]
    ) -> list[list[str]]:
        """images uint8 (H, W, 3); masks bool (n, H, W) and n class names for each. A colour for each mask."""
        crops, names = [], []
        for image, of_one, classes in zip(images, masks, class_names, strict=True):
            for mask, name in zip(of_one, classes, strict=True):
                if mask.any():
                    crops.append(paste_and_crop(image, mask))
                    names.append(name)
        named = iter(self.name_crops(crops, names))
        return [[next(named) if mask.any() else UNKNOWN_COLOR for mask in of_one] for of_one in masks]

    def name_crops(self, crops: Sequence[np.ndarray], class_names: Sequence[str]) -> list[str]:
        """The colour of each crop of `paste_and_crop`, by words for its class."""
        named = []
        for vector, name in zip(self._embedded(crops), class_names, strict=True):
            named.append(COLORS[int((self._weights(name) @ vector).argmax())])
        return named

    def _embedded(self, crops: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """A unit vector (d,) for each crop."""
        import torch

        size = self.config.batch_size
        for start in range(0, len(crops), size):
            batch = list(crops[start : start + size])
            padded = batch + batch[-1:] * (size - len(batch))
            # Said, not guessed: a crop that is 1 or 3 pixels high would be taken for one whose channels come first.
            said = {"images": padded, "input_data_format": "channels_last", "return_tensors": "pt"}
            pixels = self._clip_input(**said)["pixel_values"].to(self.config.device)
            with torch.inference_mode():
                vectors = _normalised(_pooled(self._clip.get_image_features(pixel_values=pixels)))
            yield from vectors[: len(batch)]

    def _weights_of(self, class_name: str) -> torch.Tensor:
        """(colours, d): the mean of each colour's sentences."""
        import torch

        texts = [template.format(c=color, name=class_name) for color in COLORS for template in COLOR_TEMPLATES]
        inputs = self._clip_input(text=texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            embedded = _normalised(_pooled(self._clip.get_text_features(**inputs.to(self.config.device))))
        return _normalised(embedded.unflatten(0, (len(COLORS), len(COLOR_TEMPLATES))).mean(1))


def _pooled(features: Any) -> torch.Tensor:
    """CLIP's embedding, which transformers 5 wraps."""
    return features if not hasattr(features, "pooler_output") else features.pooler_output


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
