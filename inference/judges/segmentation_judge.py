"""A judge made of a dense segmenter and a colour classifier: two ordinary transformers folders.

Every pixel is classified (background, a shape, malformed); what hangs together is one object. So two shapes that have
grown together are one object of two classes, which counts as none. It shares nothing with what a search uses
(GroundingDINO, SAM, pixel colours): other architecture, other training data, other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.grounding.object_crops import GREY, box_of, paste_and_crop
from inference.judges.geneval_scoring import ScoreThresholds, judge_objects
from inference.judges.known_words import KnownWords, labels_of
from inference.model_store import resolve_model
from inference.sound_weights import sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError, MissingWeightsError
from schemas.images import encode_png
from schemas.records import Check, DetectedObject, PromptRecord

if TYPE_CHECKING:
    import torch

BACKGROUND, MALFORMED, MIXED = "background", "malformed", "mixed"
COLOR_INPUT_PX = 16


@dataclass(frozen=True)
class SegmentationJudgeConfig:
    """Which judge, and what counts as an object."""

    model: str = model_field("")
    """Folder with `detector/` (a semantic segmentation model) and `color/` (an image classifier)."""
    thresholds: ScoreThresholds = field(default_factory=lambda: ScoreThresholds(default=0.5, counting=0.5))
    min_area_share: float = 0.012
    """Objects that cover less of the image are specks: 12 pixels of 32 x 32."""
    min_color_share: float = 0.5
    """A colour less probable than this is `mixed`."""
    batch_size: int = 32
    """Images, or objects, a forward pass; short batches are padded."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    @property
    def label(self) -> str:
        """How scores by this judge are labelled."""
        return self.model

    def known_words(self) -> KnownWords:
        """The labels of its two models. MissingWeightsError."""
        root = resolve_model(self.model)
        classes, colors = (frozenset(labels_of(root / part)) for part in ("detector", "color"))
        return KnownWords(classes - {BACKGROUND, MALFORMED}, colors - {MIXED})

    def open(self) -> SegmentationJudge:
        """Load it. MissingWeightsError, InputError."""
        return SegmentationJudge(self)


@dataclass(frozen=True)
class Region:
    """One object of a label map: class, score in [0, 1], mask bool (H, W)."""

    class_name: str
    score: float
    mask: np.ndarray


class SegmentationJudge:
    """Finds objects with class, score, box, mask and colour, and judges images by GenEval's rules."""

    def __init__(self, config: SegmentationJudgeConfig) -> None:
        """Raises MissingWeightsError where a folder is missing, InputError where a model is of another kind."""
        import torch
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModelForImageClassification,
            AutoModelForSemanticSegmentation,
        )

        self.config, self.thresholds = config, config.thresholds
        root = sound_model(config.model)
        loaded: list[Any] = []
        for name, kind in (("detector", AutoModelForSemanticSegmentation), ("color", AutoModelForImageClassification)):
            folder = root / name
            if not (folder / "config.json").is_file():
                raise MissingWeightsError(f"{folder} holds no model", expected="a judge's `detector` and `color`")
            if type(AutoConfig.from_pretrained(folder)) not in kind._model_mapping:
                raise InputError(f"{folder} holds a model of another kind", expected=f"one for {kind.__name__}")
            model = kind.from_pretrained(folder, dtype=torch.float32)
            loaded.append(model.to(config.device).eval().requires_grad_(False))
        self._detector, self._color = loaded
        self._detector_input = AutoImageProcessor.from_pretrained(root / "detector")
        self._color_input = AutoImageProcessor.from_pretrained(root / "color")
        self.class_names = tuple(self._detector.config.id2label[i] for i in range(self._detector.config.num_labels))
        self.color_names = tuple(self._color.config.id2label[i] for i in range(self._color.config.num_labels))
        self.known_classes = frozenset(self.class_names) - {BACKGROUND, MALFORMED}
        self.known_colors = frozenset(self.color_names) - {MIXED}

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord]) -> list[Check]:
        """Whether each image, uint8 (H, W, 3), shows what its prompt asks for."""
        if len(images) != len(prompts):
            raise InputError(f"{len(images)} images with {len(prompts)} prompts", expected="one prompt for each image")
        found = self.find_objects(images)
        return [judge_objects(p, objects, self.config.thresholds) for p, objects in zip(prompts, found, strict=True)]

    def find_objects(
        self, images: Sequence[np.ndarray], prompts: Sequence[PromptRecord] | None = None
    ) -> list[list[DetectedObject]]:
        """Everything in each image, best first, whatever the score and the prompt; what is no clear shape is called
        "malformed"."""
        regions = self.find_regions(images)
        crops = [paste_on_grey(image, r.mask) for image, found in zip(images, regions, strict=True) for r in found]
        colors = iter(self.name_colors(crops))
        results = []
        for found in regions:
            objects = [
                DetectedObject(r.class_name, r.score, box_of(r.mask), next(colors), encode_png(r.mask)) for r in found
            ]
            results.append(sorted(objects, key=lambda o: -o.score))
        return results

    def find_regions(self, images: Sequence[np.ndarray]) -> list[list[Region]]:
        """Objects without colour; masks are of the image's size."""
        import torch
        from torch.nn import functional as F

        found: list[list[Region]] = []
        size = self.config.batch_size
        with torch.inference_mode():
            for start in range(0, len(images), size):
                batch = list(images[start : start + size])
                logits = self._detector(pixel_values=self._pixels(self._detector_input, batch)).logits.float()
                for image, single in zip(batch, logits[: len(batch)].split(1), strict=True):
                    probabilities = F.interpolate(single, image.shape[:2], mode="area").softmax(1)[0].cpu().numpy()
                    found.append(regions_of(probabilities, self.class_names, self.config.min_area_share))
        return found

    def name_colors(self, crops: Sequence[np.ndarray]) -> list[str]:
        """What `paste_on_grey` made of objects -> a colour for each, "mixed" where it has none or several."""
        import torch

        names: list[str] = []
        size = self.config.batch_size
        with torch.inference_mode():
            for start in range(0, len(crops), size):
                batch = list(crops[start : start + size])
                logits = self._color(pixel_values=self._pixels(self._color_input, batch)).logits[: len(batch)]
                shares, classes = logits.float().softmax(1).max(1)
                for share, number in zip(shares.tolist(), classes.tolist(), strict=True):
                    names.append(self.color_names[number] if share >= self.config.min_color_share else MIXED)
        return names

    def _pixels(self, processor: Any, images: list[np.ndarray]) -> torch.Tensor:
        padded = images + images[-1:] * (self.config.batch_size - len(images))
        return processor(images=padded, return_tensors="pt")["pixel_values"].to(self.config.device)


def regions_of(probabilities: np.ndarray, class_names: Sequence[str], min_area_share: float) -> list[Region]:
    """What hangs together in a map of class probabilities (C, H, W).

    A region's class has the largest share of its foreground; its score is that share times the share of its pixels
    that are of this class. A clean shape scores near 1, half a shape and half something else about .25.
    """
    from scipy import ndimage

    background = class_names.index(BACKGROUND)
    foreground = 1.0 - probabilities[background]
    # Pixels that touch at a corner hang together too: a judge is strict about shapes that have grown together.
    labels: np.ndarray = ndimage.label(foreground > 0.5, np.ones((3, 3)))[0]  # pyright: ignore
    shapes = probabilities.copy()
    shapes[background] = 0.0
    winners = shapes.argmax(0)
    regions = []
    for number in range(1, int(labels.max()) + 1):
        mask = labels == number
        if mask.mean() < min_area_share:
            continue
        shares = shapes[:, mask].sum(1) / foreground[mask].sum()
        best = int(shares.argmax())
        score = float(shares[best] * (winners[mask] == best).mean())
        regions.append(Region(class_names[best], score, mask))
    return regions


def paste_on_grey(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked object alone on grey, cropped to its box, uint8 (COLOR_INPUT_PX, COLOR_INPUT_PX, 3) (GenEval)."""
    from PIL import Image

    if not mask.any():
        return np.full((COLOR_INPUT_PX, COLOR_INPUT_PX, 3), GREY, np.uint8)
    crop = Image.fromarray(paste_and_crop(image, mask))
    return np.array(crop.resize((COLOR_INPUT_PX, COLOR_INPUT_PX), Image.Resampling.BILINEAR))
