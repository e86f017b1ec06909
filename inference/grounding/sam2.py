"""Boxes to masks with SAM 2 or SAM 3, in transformers' classes: `Sam2Model`, and of SAM 3 `Sam3TrackerModel`, the part
that takes boxes. Folders of their video models (as facebook/sam2.1-* and facebook/sam3 are published) hold the same
weights among others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.device import device_of
from inference.sound_weights import loaded_whole, sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

MASK_THRESHOLD = 0.0  # of logits, as both are published


@dataclass(frozen=True)
class Sam2Config:
    """Which SAM 2. Images are encoded one by one, so that masks depend on their image alone."""

    model: str = model_field("facebook/sam2.1-hiera-large")
    """Folder or hub id of a `Sam2Model`, or of a `Sam2VideoModel`."""
    box_batch: int = 16
    """Boxes of an image through the mask decoder at once, padded."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: cuda where there is one."""

    def open(self) -> BoxSegmenter:
        """Load it. MissingWeightsError, InputError."""
        return BoxSegmenter(self.model, "Sam2Model", ("sam2", "sam2_video"), self.box_batch, self.device)


@dataclass(frozen=True)
class Sam3Config:
    """Which SAM 3. Images are encoded one by one, so that masks depend on their image alone."""

    model: str = model_field("facebook/sam3")
    """Folder or hub id of a `Sam3TrackerModel`, or of a `Sam3VideoModel`, which holds one."""
    box_batch: int = 16
    """Boxes of an image through the mask decoder at once, padded."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: cuda where there is one."""

    def open(self) -> BoxSegmenter:
        """Load it. MissingWeightsError, InputError."""
        kinds = ("sam3_tracker", "sam3_video", "sam3_tracker_video")
        return BoxSegmenter(self.model, "Sam3TrackerModel", kinds, self.box_batch, self.device)


class BoxSegmenter:
    """A `Segmenter`: one mask for each box."""

    def __init__(self, name: str, class_name: str, kinds: Sequence[str], box_batch: int, device: str) -> None:
        """name: of the model; class_name: transformers' class for it; kinds: the `model_type`s that it opens.
        MissingWeightsError; InputError for a folder of something else."""
        import transformers

        if box_batch < 1:
            raise InputError(f"{box_batch} boxes at once", field="segmenter.box_batch", expected="at least 1")
        folder = sound_model(name)
        try:
            # The file and not AutoConfig, whose class for a video model's settings this transformers mixes up.
            found = transformers.PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
            self._processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no model in transformers' format: {str(error).splitlines()[0]}",
                file=str(folder),
                expected="config.json, model.safetensors and preprocessor_config.json",
            ) from error
        if found not in kinds:
            raise InputError(f"{name!r} is a {found!r} model", field="segmenter.model", expected=f"a {class_name}")
        self._device, self._box_batch = device_of(device), box_batch
        with loaded_whole(folder):
            model: Any = getattr(transformers, class_name).from_pretrained(folder)
        self._model = model.to(self._device).eval().requires_grad_(False)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """images: uint8 (H, W, 3), any sizes; boxes: (n, 4) xyxy px for each. Returns bool (n, H, W) for each."""
        import torch

        if len(images) != len(boxes):
            raise ValueError(f"{len(images)} images with {len(boxes)} sets of boxes")
        with torch.inference_mode():
            return [self._segment(image, found) for image, found in zip(images, boxes, strict=True)]

    def _segment(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        import torch
        from torch.nn import functional as F

        height, width = image.shape[:2]
        masks = np.zeros((len(boxes), height, width), bool)
        if not len(boxes):
            return masks
        pixels: torch.Tensor = self._processor(
            images=[np.ascontiguousarray(image)], input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"].to(self._device)
        embeddings = self._model.get_image_embeddings(pixels)
        # Both stretch an image to their square, and its boxes with it.
        ratio = np.array([pixels.shape[-1] / width, pixels.shape[-2] / height] * 2, np.float32)
        asked = torch.from_numpy(np.asarray(boxes, np.float32) * ratio)
        for start in range(0, len(boxes), self._box_batch):
            some = asked[start : start + self._box_batch]
            padded = torch.zeros(1, self._box_batch, 4)
            padded[0, : len(some)] = some
            logits = self._model(
                image_embeddings=list(embeddings), input_boxes=padded.to(self._device), multimask_output=False
            ).pred_masks[0, :, :1]
            for row in range(len(some)):
                whole = F.interpolate(logits[row : row + 1].float(), (height, width), mode="bilinear")
                masks[start + row] = (whole[0, 0] > MASK_THRESHOLD).cpu().numpy()
        return masks
