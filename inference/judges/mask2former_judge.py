"""GenEval's judge at full size: a Mask2Former finds COCO's objects, a CLIP names their colours.

transformers' port of the detector has other weights than the one that GenEval's own script loads through mmdet, so its
scores are labelled and compared with each other alone; `evaluate --official` tells how often the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.judges.geneval_scoring import ScoreThresholds
from inference.judges.segmentation_judge import GREY, box_of
from inference.model_store import resolve_model
from inference.prompt_grammar import COLORS
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError
from schemas.images import encode_png
from schemas.records import DetectedObject, PromptRecord

if TYPE_CHECKING:
    import torch

COLOR_TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")  # GenEval
# What label files call COCO's classes, and what GenEval's prompts call them.
OTHER_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class Mask2FormerJudgeConfig:
    """Which detector and which CLIP, and what counts as an object."""

    detector: str = model_field("facebook/mask2former-swin-small-coco-instance")
    """Folder or hub id of a `Mask2FormerForUniversalSegmentation` for COCO instances."""
    clip: str = model_field("openai/clip-vit-large-patch14")
    """Folder or hub id of a CLIP, which names colours."""
    thresholds: ScoreThresholds = field(default_factory=ScoreThresholds)
    """GenEval: strictly above .3, and .9 for the counting tag."""
    batch_size: int = 4
    """Images a forward pass of the detector; short batches are padded."""
    color_batch_size: int = 32
    """Objects a forward pass of CLIP."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    @property
    def label(self) -> str:
        """How scores by this judge are labelled."""
        return f"{self.detector} (transformers' weights, not GenEval's own) and {self.clip}"

    def open(self) -> Mask2FormerJudge:
        """Load it. MissingWeightsError, InputError."""
        return Mask2FormerJudge(self)


class Mask2FormerJudge:
    """See `inference.judges.judge.Judge`."""

    def __init__(self, config: Mask2FormerJudgeConfig) -> None:
        """MissingWeightsError; InputError for a model of another kind."""
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            CLIPModel,
            CLIPProcessor,
            Mask2FormerForUniversalSegmentation,
        )

        self.config, self.thresholds = config, config.thresholds
        folders = [resolve_model(config.detector), resolve_model(config.clip)]
        for folder, kind in zip(folders, ("mask2former", "clip"), strict=True):
            if AutoConfig.from_pretrained(folder).model_type != kind:
                raise InputError(f"{folder} holds a model of another kind", expected=f"a {kind} model")
        detector: Any = Mask2FormerForUniversalSegmentation.from_pretrained(folders[0])
        clip: Any = CLIPModel.from_pretrained(folders[1])
        self._detector, self._clip = (m.to(config.device).eval().requires_grad_(False) for m in (detector, clip))
        self._detector_input: Any = AutoImageProcessor.from_pretrained(folders[0])
        self._clip_input: Any = CLIPProcessor.from_pretrained(folders[1])
        labels: dict[int, str] = self._detector.config.id2label
        self.class_names = {int(i): OTHER_NAMES.get(name, name) for i, name in labels.items()}
        self.known_classes = frozenset(self.class_names.values())
        self.known_colors: frozenset[str] = frozenset(COLORS)
        self._color_weights = cache(self._weights_of)

    def find_objects(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord] | None = None
    ) -> list[list[DetectedObject]]:
        """Everything in each image, uint8 (H, W, 3), best first. prompts: colours are named only of objects for which
        the image's prompt asks for one (naming them takes longer than finding them)."""
        found = [one for batch in self._batches(images) for one in self._find(batch)]
        crops, where = [], []
        for number, (image, objects) in enumerate(zip(images, found, strict=True)):
            asked = None if prompts is None else {c.class_name for c in prompts[number].include if c.color}
            for index, (name, _, mask) in enumerate(objects):
                if asked is None or name in asked:
                    crops.append(paste_and_crop(image, mask))
                    where.append((number, index))
        names = [found[number][index][0] for number, index in where]
        colors = dict(zip(where, self.name_colors(crops, names), strict=True))
        return [
            [
                DetectedObject(name, score, box_of(mask), colors.get((number, index)), encode_png(mask))
                for index, (name, score, mask) in enumerate(objects)
            ]
            for number, objects in enumerate(found)
        ]

    def _batches(self, images: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        size = self.config.batch_size
        return [list(images[start : start + size]) for start in range(0, len(images), size)]

    def _find(self, batch: list[np.ndarray]) -> list[list[tuple[str, float, np.ndarray]]]:
        """Class, score and mask bool (H, W) of every object, best first."""
        import torch

        padded = batch + batch[-1:] * (self.config.batch_size - len(batch))
        inputs = self._detector_input(images=padded, return_tensors="pt").to(self.config.device)
        lowest = min(self.thresholds.default, self.thresholds.counting)
        with torch.inference_mode():
            outputs = self._detector(**inputs)
        segments = self._detector_input.post_process_instance_segmentation(
            outputs,
            threshold=lowest,
            target_sizes=[image.shape[:2] for image in padded],
            return_binary_maps=True,
        )
        found = []
        for one in segments[: len(batch)]:
            masks = one["segmentation"]
            objects = [
                (self.class_names[info["label_id"]], float(info["score"]), masks[i].cpu().numpy() > 0.5)
                for i, info in enumerate(one["segments_info"])
            ]
            found.append(sorted((o for o in objects if o[2].any()), key=lambda o: -o[1]))
        return found

    def name_colors(self, crops: Sequence[np.ndarray], class_names: Sequence[str]) -> list[str]:
        """The colour of each crop of `paste_and_crop`: zero-shot, with words for its class (GenEval)."""
        import torch

        named: list[str] = []
        size = self.config.color_batch_size
        for start in range(0, len(crops), size):
            batch = list(crops[start : start + size])
            padded = batch + batch[-1:] * (size - len(batch))
            pixels = self._clip_input(images=padded, return_tensors="pt")["pixel_values"].to(self.config.device)
            with torch.inference_mode():
                embedded = _normalised(_pooled(self._clip.get_image_features(pixel_values=pixels)))
            for vector, name in zip(embedded, class_names[start : start + len(batch)], strict=False):
                named.append(COLORS[int((self._color_weights(name) @ vector).argmax())])
        return named

    def _weights_of(self, class_name: str) -> torch.Tensor:
        """(colours, d): the mean of each colour's templates."""
        import torch

        texts = [template.format(c=color, name=class_name) for color in COLORS for template in COLOR_TEMPLATES]
        inputs = self._clip_input(text=texts, padding=True, return_tensors="pt").to(self.config.device)
        with torch.inference_mode():
            embedded = _normalised(_pooled(self._clip.get_text_features(**inputs)))
        return _normalised(embedded.unflatten(0, (len(COLORS), len(COLOR_TEMPLATES))).mean(1))


def paste_and_crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked object alone on grey (#999), cropped to its box: uint8 (h, w, 3) (GenEval)."""
    x0, y0, x1, y1 = (int(v) for v in box_of(mask))
    return np.where(mask[y0:y1, x0:x1, None], image[y0:y1, x0:x1], np.uint8(GREY))


def _pooled(features: Any) -> torch.Tensor:
    """CLIP's embedding, which transformers 5 wraps."""
    return features if not hasattr(features, "pooler_output") else features.pooler_output


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
