"""Open-vocabulary detection with GroundingDINO or MM-Grounding-DINO, in transformers' ports of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.interfaces import Detection
from inference.sound_weights import sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

CLASSES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}
"""transformers' class, by the `model_type` of a folder's config.json. Both take and give the same."""


@dataclass(frozen=True)
class GroundingDinoConfig:
    """Which GroundingDINO, its thresholds, and the fixed shapes it runs in."""

    model: str = model_field("IDEA-Research/grounding-dino-base")
    """Folder or hub id of a GroundingDINO or an MM-Grounding-DINO, told apart by its config.json (a .pth file with the
    groundingdino-py backend), or a shipped model's name."""
    backend: Literal["transformers", "groundingdino-py"] = "transformers"
    """transformers' ports, or GroundingDINO's authors' package."""
    text_encoder: str = model_field("")
    """groundingdino-py alone: folder or hub id with BERT's config and tokenizer."""
    box_threshold: float = 0.35
    """On the best token of a box (the published demo's value)."""
    text_threshold: float = 0.25
    """On the mean over the tokens of the class that it is given."""
    nms_iou: float = 0.7
    """Boxes of one class that overlap more are one object."""
    batch_size: int = 16
    """Images a forward pass, padded to this."""
    text_length: int = 256
    """Tokens of every text, padded to this."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""
    dtype: str = "float32"
    """Of weights and sums: float32, bfloat16 or float16."""


@dataclass(frozen=True)
class _Query:
    """One image asked for some classes: token ids, and the half-open token span of each class."""

    image: int
    class_names: tuple[str, ...]
    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class GroundingDinoDetector:
    """A `Detector`. The text is "circle. star.": the lower-cased class names, each ended by a dot."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        """Raises MissingWeightsError where the model is not there, InputError where it is something else."""
        import torch

        self.config = config
        self._model, self._tokenizer, self._processor = _load(config)
        longest = getattr(self._model.config, "max_text_len", config.text_length)
        if config.text_length > longest:
            raise InputError(
                f"text_length is {config.text_length}, the model takes {longest}", field="text_length", expected="fewer"
            )
        self._dtype = getattr(torch, config.dtype)
        special = [self._tokenizer.cls_token_id, self._tokenizer.sep_token_id, self._tokenizer.pad_token_id]
        self._cls, self._sep, self._pad = special
        self._dot = self._tokenizer.convert_tokens_to_ids(".")

    def detect(self, images: Sequence[np.ndarray], class_names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """images: uint8 (H, W, 3), any sizes. class_names: what to look for in each. Best first."""
        import torch

        if len(images) != len(class_names):
            raise ValueError(f"{len(images)} images with {len(class_names)} lists of classes")
        queries = [query for i, names in enumerate(class_names) for query in self._make_queries(i, names)]
        found: list[list[Detection]] = [[] for _ in images]
        # Images of one size run together, so that none is padded because of another.
        by_size: dict[tuple[int, ...], list[_Query]] = {}
        for query in queries:
            by_size.setdefault(images[query.image].shape, []).append(query)
        with torch.inference_mode():
            for same_size in by_size.values():
                for start in range(0, len(same_size), self.config.batch_size):
                    chunk = same_size[start : start + self.config.batch_size]
                    for query, detections in zip(chunk, self._run(chunk, images), strict=True):
                        found[query.image] += detections
        return [sorted(detections, key=lambda d: -d.score) for detections in found]

    def _make_queries(self, image: int, class_names: Sequence[str]) -> list[_Query]:
        """As few texts as hold all classes. Each class is tokenised alone, so its span is known, not searched for."""
        queries: list[_Query] = []
        names: list[str] = []
        ids, spans = [self._cls], []

        def finish() -> None:
            if names:
                queries.append(_Query(image, tuple(names), (*ids, self._sep), tuple(spans)))

        for name in dict.fromkeys(class_names):
            tokens = self._tokenizer(name.lower().strip(), add_special_tokens=False)["input_ids"]
            tokens = [t for t in tokens if t != self._dot]
            # One position stays empty: transformers treats a text that fills its length differently at the end.
            room = self.config.text_length - 2
            if not tokens or len(tokens) + 2 > room:
                raise InputError(f"{name!r} cannot be looked for", field="class_names", expected="a short noun phrase")
            if len(ids) + len(tokens) + 1 > room:
                finish()
                names, ids, spans = [], [self._cls], []
            names.append(name)
            spans.append((len(ids), len(ids) + len(tokens)))
            ids += [*tokens, self._dot]
        finish()
        return queries

    def _run(self, chunk: list[_Query], images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """One forward pass: the chunk, padded to the batch size with its first image."""
        import torch

        config = self.config
        rows = [*chunk, *[chunk[0]] * (config.batch_size - len(chunk))]
        ids = torch.full((len(rows), config.text_length), self._pad, dtype=torch.long)
        for row, query in zip(ids, rows, strict=True):
            row[: len(query.token_ids)] = torch.tensor(query.token_ids)
        # The chunk's images are prepared once each; the padding repeats the first.
        inputs = self._processor(images=[images[q.image] for q in chunk], return_tensors="pt")
        pixels = inputs["pixel_values"]
        pixels = torch.cat([pixels, pixels[:1].expand(len(rows) - len(chunk), -1, -1, -1)])
        outputs = self._model(
            pixel_values=pixels.to(config.device, self._dtype),
            input_ids=ids.to(config.device),
            attention_mask=(ids != self._pad).long().to(config.device),
        )
        probabilities = outputs.logits.float().sigmoid().cpu()
        boxes = outputs.pred_boxes.float().cpu()
        return [
            self._read(query, probabilities[i], boxes[i], images[query.image].shape) for i, query in enumerate(chunk)
        ]

    def _read(
        self, query: _Query, probabilities: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, ...]
    ) -> list[Detection]:
        """probabilities (queries, tokens), boxes (queries, 4) as cxcywh shares of the image -> detections, best first.

        A box has the class whose tokens are most probable on average (GroundingDINO, its evaluation on COCO) and the
        probability of the best of these tokens as its score.
        """
        import torch
        from torchvision.ops import batched_nms

        mean = torch.stack([probabilities[:, a:b].mean(1) for a, b in query.spans], 1)
        best = torch.stack([probabilities[:, a:b].amax(1) for a, b in query.spans], 1)
        label = mean.argmax(1)
        rows = torch.arange(len(label))
        score = best[rows, label]
        keep = (score > self.config.box_threshold) & (mean[rows, label] > self.config.text_threshold)
        score, label, centre, size = score[keep], label[keep], boxes[keep, :2], boxes[keep, 2:]
        height, width = shape[:2]
        scale = torch.tensor([width, height, width, height], dtype=torch.float32)
        xyxy = torch.cat([centre - size / 2, centre + size / 2], 1).clamp(0, 1) * scale
        # A row's place in the batch moves the last bits of a float (matrix products run in blocks); what leaves here
        # is rounded far above that, so that it is the same wherever an image stood.
        kept = batched_nms(xyxy, score, label, self.config.nms_iou)
        return [
            Detection(query.class_names[label[k]], round(score[k].item(), 4), _rounded(xyxy[k].tolist()))
            for k in kept.tolist()
        ]


def _rounded(box: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (round(value, 2) for value in box)
    return x0, y0, x1, y1


def _load(config: GroundingDinoConfig) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor)."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    folder = sound_model(config.model)
    try:
        kind = AutoConfig.from_pretrained(folder).model_type
        if kind not in CLASSES:
            raise ValueError(f"a {kind!r} model")
        # Pickled checkpoints are not read: every published one of transformers has safetensors.
        model: Any = getattr(transformers, CLASSES[kind]).from_pretrained(
            folder, dtype=getattr(torch, config.dtype), use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no GroundingDINO in transformers' format: {str(error).splitlines()[0]}",
            file=str(folder),
            expected="config.json, model.safetensors, preprocessor_config.json and a tokenizer",
        ) from error
    return model.to(config.device).eval().requires_grad_(False), tokenizer, processor
