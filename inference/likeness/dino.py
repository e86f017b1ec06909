"""How alike two images are to a DINO: what is shown and how it lies, whatever a prompt says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from inference.sound_weights import loaded_whole, sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit")


@dataclass(frozen=True)
class DinoLikenessConfig:
    """Which DINO, and the fixed shape it runs in."""

    model: str = model_field("facebook/dinov2-base")
    """Local folder or hub id of a DINOv2 or DINOv3 of transformers."""
    batch_size: int = 8
    """Images a forward pass; short batches are padded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and sums."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    def open(self) -> DinoLikeness:
        """Load it. MissingWeightsError, InputError."""
        return DinoLikeness(self)


class DinoLikeness:
    """The cosine of two images' class tokens, as DINO's authors retrieve images by them."""

    def __init__(self, config: DinoLikenessConfig) -> None:
        """Loads the model. MissingWeightsError where it is not on this machine, InputError where it is no DINO."""
        import torch
        from transformers import AutoConfig, AutoImageProcessor, AutoModel

        folder = sound_model(config.model)
        if (kind := AutoConfig.from_pretrained(folder).model_type) not in KINDS:
            expected = "a DINOv2 or DINOv3"
            raise InputError(f"{config.model!r} is a {kind!r} model", field="likeness.dino.model", expected=expected)
        self.config = config
        self._processor = AutoImageProcessor.from_pretrained(folder)
        with loaded_whole(folder):
            model: Any = AutoModel.from_pretrained(folder, dtype=getattr(torch, config.dtype))
        self._model = model.to(config.device).eval().requires_grad_(False)

    def between(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """images uint8 (H, W, 3) -> float32 (n, n), one for each two of them."""
        import torch

        size = self.config.batch_size
        parts = [np.zeros((0, 1), np.float32)] if not images else []
        with torch.inference_mode():
            for start in range(0, len(images), size):
                batch = list(images[start : start + size])
                padded = batch + batch[-1:] * (size - len(batch))
                pixels = self._processor(images=padded, return_tensors="pt")["pixel_values"]
                tokens = self._model(pixel_values=pixels.to(self.config.device, self._model.dtype)).last_hidden_state
                first = torch.nn.functional.normalize(tokens[: len(batch), 0].float(), dim=-1)
                parts.append(first.cpu().numpy())
        features = np.concatenate(parts)
        return np.minimum(features @ features.T, np.float32(1.0))
