"""The score that a CLIP gives an image and a prompt: CLIP itself, PickScore, HPSv2.1, or any `CLIPModel` folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from inference.model_store import resolve_model
from inference.sound_weights import loaded_whole, sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError


@dataclass(frozen=True)
class ClipRewardConfig:
    """Which CLIP, and the fixed shapes it runs in."""

    model: str = model_field("openai/clip-vit-large-patch14")
    """Local folder or hub id of a `CLIPModel`, or a shipped model's name."""
    processor: str = model_field("")
    """Folder of tokenizer and image processor, where the model's own has none (PickScore's are those of
    laion/CLIP-ViT-H-14-laion2B-s32B-b79K)."""
    checkpoint: str = model_field("")
    """OpenCLIP checkpoint whose weights take the place of the model's own, of the same architecture (HPSv2.1's
    HPS_v2.1_compressed.pt over laion/CLIP-ViT-H-14-laion2B-s32B-b79K)."""
    batch_size: int = 8
    """Images, or prompts, a forward pass; short batches are padded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and sums."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""

    def open(self) -> ClipReward:
        """Load it. MissingWeightsError, InputError."""
        return ClipReward(self)


class ClipReward:
    """exp(logit scale) * cosine of the two embeddings, as PickScore and HPSv2 are used."""

    def __init__(self, config: ClipRewardConfig) -> None:
        """Loads the model. MissingWeightsError where it is not on this machine, InputError where it is no CLIP."""
        import torch
        from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPModel

        folder = sound_model(config.model)
        if (kind := AutoConfig.from_pretrained(folder).model_type) != "clip":
            raise InputError(f"{config.model!r} is a {kind!r} model", field="model", expected="a CLIPModel")
        self.config = config
        processors = resolve_model(config.processor) if config.processor else folder
        self._tokenizer = AutoTokenizer.from_pretrained(processors)
        self._image_processor = AutoImageProcessor.from_pretrained(processors)
        # Plain attention: fused kernels are made for longer sequences than CLIP's, above all on a CPU.
        with loaded_whole(folder):
            model: Any = CLIPModel.from_pretrained(
                folder, dtype=getattr(torch, config.dtype), attn_implementation="eager"
            )
        if config.checkpoint:
            self._load_checkpoint(model, config)
        self._model = model.to(config.device).eval().requires_grad_(False)
        self._max_tokens = int(self._model.config.text_config.max_position_embeddings)

    @staticmethod
    def _load_checkpoint(model: Any, config: ClipRewardConfig) -> None:
        from inference.rewards.open_clip_loading import read_checkpoint, to_transformers

        path = sound_model(config.checkpoint)
        found = model.load_state_dict(to_transformers(read_checkpoint(path)), strict=False)
        missing = [name for name in found.missing_keys if not name.endswith("position_ids")]
        if missing or found.unexpected_keys:
            raise InputError(
                f"its tensors are not those of {config.model} (missing {missing[:3]}, unexpected "
                f"{list(found.unexpected_keys)[:3]})",
                file=str(path),
                expected="an OpenCLIP checkpoint of the same architecture",
            )

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """images uint8 (H, W, 3), one prompt each -> float32 (n,). Each distinct prompt is embedded once."""
        if len(images) != len(prompts):
            raise InputError(f"{len(images)} images with {len(prompts)} prompts", expected="one prompt for each image")
        if not images:
            return np.zeros(0, np.float32)
        texts = list(dict.fromkeys(prompts))
        row = {text: i for i, text in enumerate(texts)}
        of_prompt = self.embed_texts(texts)[[row[text] for text in prompts]]
        scale = float(self._model.logit_scale.exp())
        return scale * (self.embed_images(images) * of_prompt).sum(1)

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 (n, d)."""

        def embed(batch: list[Any]) -> Any:
            pixels = self._image_processor(images=batch, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.config.device, self._model.dtype)
            return self._model.visual_projection(self._model.vision_model(pixel_values=pixels).pooler_output)

        return self._embed(images, embed)

    def between(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """How alike images are to it: float32 (n, n), the cosine of each two images' embeddings."""
        if not images:
            return np.zeros((0, 0), np.float32)
        features = self.embed_images(images)
        return np.minimum(features @ features.T, np.float32(1.0))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (n, d); what is longer than the model reads is cut."""

        def embed(batch: list[Any]) -> Any:
            # Always the full length, so that an embedding does not depend on the other texts of its batch.
            tokens = self._tokenizer(
                batch, padding="max_length", max_length=self._max_tokens, truncation=True, return_tensors="pt"
            )
            tokens = {name: tokens[name].to(self.config.device) for name in ("input_ids", "attention_mask")}
            return self._model.text_projection(self._model.text_model(**tokens).pooler_output)

        return self._embed(texts, embed)

    def _embed(self, items: Sequence[Any], embed: Any) -> np.ndarray:
        import torch

        size = self.config.batch_size
        parts = []
        with torch.inference_mode():
            for start in range(0, len(items), size):
                batch = list(items[start : start + size])
                vectors = embed(batch + batch[-1:] * (size - len(batch)))[: len(batch)].float()
                parts.append(torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(parts)
