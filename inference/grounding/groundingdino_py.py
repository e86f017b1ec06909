"""Open-vocabulary detection with GroundingDINO as its authors published it: the `groundingdino-py` package and the
official checkpoints. transformers' port of the same network is in `detector.py`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.grounding.grounding_dino import GroundingDinoConfig
from inference.interfaces import Detection
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the published demo normalises


@dataclass(frozen=True)
class Caption:
    """Classes asked for in one text, "cat . red apple .", and the half-open token span of each."""

    class_names: tuple[str, ...]
    text: str
    spans: tuple[tuple[int, int], ...]


class GroundingDinoPyDetector:
    """A `Detector`. Always float32, since the package mixes types."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        """config.model: groundingdino_swint_ogc or groundingdino_swinb_cogcoor (.pth or .safetensors), or a folder with
        config.json and model.safetensors; its `text_length` counts for every caption, at most 256.

        MissingWeightsError where weights are not on this machine; InputError where they are not GroundingDINO's.
        """
        from inference.grounding.groundingdino_py_loading import load_grounding_dino

        if not 8 <= config.text_length <= 256 or config.batch_size < 1:
            raise InputError(
                f"text_length {config.text_length}, batch_size {config.batch_size}",
                expected="text_length from 8 to 256 (what the model takes), batch_size at least 1",
            )
        if config.dtype != "float32":
            raise InputError(f"groundingdino-py in {config.dtype}", field="detector.dtype", expected="float32")
        self.config = config
        network, self._resize = load_grounding_dino(config.model, config.text_encoder, config.text_length)
        self._model: Any = network.to(config.device)
        self._tokenizer = self._model.tokenizer.tokenizer

    def detect(self, images: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """images: uint8 (H, W, 3), any sizes. class_names: what to look for in each. Best first."""
        import torch

        if len(images) != len(class_names):
            raise ValueError(f"{len(images)} images with {len(class_names)} lists of classes")
        # Images of one size run together, so that none is padded because of another.
        by_size: dict[tuple[int, ...], list[tuple[int, Caption]]] = {}
        for index, names in enumerate(class_names):
            for caption in self._captions(names):
                by_size.setdefault(images[index].shape, []).append((index, caption))
        found: list[list[Detection]] = [[] for _ in images]
        size = self.config.batch_size
        with torch.inference_mode():
            for queries in by_size.values():
                for start in range(0, len(queries), size):
                    chunk = queries[start : start + size]
                    logits, boxes = self._run([images[i] for i, _ in chunk], [caption.text for _, caption in chunk])
                    for row, (index, caption) in enumerate(chunk):
                        found[index] += self._read(logits[row], boxes[row], caption, images[index].shape)
        return [sorted(detections, key=lambda d: -d.score) for detections in found]

    def _captions(self, class_names: Sequence[str]) -> list[Caption]:
        """As few texts as hold all classes. Dots and question marks part phrases, so they go out of names."""
        captions: list[Caption] = []
        names: list[str] = []
        phrases: list[str] = []
        spans: list[tuple[int, int]] = []
        end = 1  # [CLS] comes first

        def finish() -> None:
            if names:
                captions.append(Caption(tuple(names), " ".join(f"{p} ." for p in phrases), tuple(spans)))

        for name in dict.fromkeys(class_names):
            phrase = " ".join(re.sub(r"[.?]", " ", name.lower()).split())
            count = len(self._tokenizer(phrase, add_special_tokens=False)["input_ids"])
            if count == 0 or count + 3 > self.config.text_length:
                raise InputError(f"{name!r} cannot be looked for", field="class_names", expected="a short noun phrase")
            if end + count + 2 > self.config.text_length:  # with its dot and [SEP]
                finish()
                names, phrases, spans, end = [], [], [], 1
            names.append(name)
            phrases.append(phrase)
            spans.append((end, end + count))
            end += count + 1
        finish()
        return captions

    def _run(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """One forward pass over images of one size, padded to the batch size with the first of them.

        Returns logits (n, queries, 256) and boxes (n, queries, 4) as (cx, cy, w, h) shares of the image, on the CPU.
        """
        import torch

        config = self.config
        missing = config.batch_size - len(images)
        pixels = torch.stack([prepare_image(image, *self._resize) for image in images])
        pixels = torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)]).to(config.device)
        outputs = self._model(pixels, captions=[*texts, *[texts[0]] * missing])
        return outputs["pred_logits"].float().cpu()[: len(images)], outputs["pred_boxes"].float().cpu()[: len(images)]

    def _read(
        self, logits: torch.Tensor, boxes: torch.Tensor, caption: Caption, shape: tuple[int, ...]
    ) -> list[Detection]:
        """A box has the class whose tokens are most probable on average (GroundingDINO, its evaluation on COCO) and the
        probability of the best of these tokens as its score. logits (queries, 256), boxes (queries, 4)."""
        import torch
        from torchvision.ops import batched_nms

        probabilities = logits.sigmoid()
        mean = torch.stack([probabilities[:, a:b].mean(1) for a, b in caption.spans], 1)
        best = torch.stack([probabilities[:, a:b].amax(1) for a, b in caption.spans], 1)
        label = mean.argmax(1)
        rows = torch.arange(len(label))
        score = best[rows, label]
        keep = (score > self.config.box_threshold) & (mean[rows, label] > self.config.text_threshold)
        score, label, boxes = score[keep], label[keep], boxes[keep]
        scale = torch.tensor([shape[1], shape[0]] * 2, dtype=torch.float32)
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).clamp(0, 1) * scale
        return [
            Detection(caption.class_names[int(label[k])], score[k].item(), _four(corners[k].tolist()))
            for k in batched_nms(corners, score, label, self.config.nms_iou).tolist()
        ]


def prepare_image(image: np.ndarray, short_px: int, long_px: int) -> torch.Tensor:
    """uint8 (H, W, 3) to normalised float32 (3, h, w), resized as the package's `RandomResize([short], max)` does."""
    from PIL import Image
    from torchvision.transforms import functional as F

    height, width = image.shape[:2]
    size = list(target_size(height, width, short_px, long_px))
    resized: Any = F.resize(Image.fromarray(image), size)  # type: ignore[arg-type]
    return F.normalize(F.to_tensor(resized), list(IMAGE_MEAN), list(IMAGE_STD))


def target_size(height: int, width: int, short_px: int, long_px: int) -> tuple[int, int]:
    """(height, width) after resizing: the short side to `short_px`, or less where the long one would pass `long_px`."""
    shortest, longest = min(height, width), max(height, width)
    if longest / shortest * short_px > long_px:
        short_px = round(long_px * shortest / longest)
    if shortest == short_px:
        return height, width
    if width < height:
        return int(short_px * height / width), short_px
    return short_px, int(short_px * width / height)


def _four(values: list[Any]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
