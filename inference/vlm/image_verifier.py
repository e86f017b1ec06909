"""ReflectionFlow's published Image-Verifier (`diffusion-cot/Image-Verifier`): a checkpoint of `reward_checkpoint`'s
layout, scored as the published code does it.

What that code does otherwise than one would expect, and this must do too: positions count 0, 1, 2, ... on all three
rotary axes, image tokens included; the reward token stands inside the user's turn; the vocabulary is cut to the
tokenizer's. By default it computes in bfloat16 with LoRA apart, in float32; here LoRA is added to the weights in
float32 first, which in float32 gives the same scores.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from inference.interfaces import ChatRequest, OneCallAnImage
from inference.vlm.chat_inputs import chat_messages
from inference.vlm.prompts import load_prompt
from inference.vlm.reward_checkpoint import (
    NEWEST,
    CheckpointSettings,
    checkpoint_of,
    read_settings,
    say_once,
    settings_file,
)
from inference.vlm.reward_tensors import put_into, read_tensors
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch

REWARD_TOKEN = "<|VQ_reward|>"
OWN_WORDS = "rate"
PUBLISHED_WORDS = "87f96686d32d0bd020d2d0be8dc5cffd995d449103f2d5a9f482e5dc59c6a6b2"
"""SHA-256 of the template `detailed_special`, with its {text_prompt}, as UTF-8."""
SIDE, MIN_PIXELS, MAX_RATIO = 28, 56 * 56, 200  # qwen_vl_utils: two patches of 14; the least an image may have


class ImageVerifier(OneCallAnImage):
    """See `inference.interfaces.Verifier`."""

    def __init__(
        self,
        folder: Path,
        *,
        base: str = "",
        template: str = OWN_WORDS,
        max_pixels: int = 0,
        step: int = NEWEST,
        dtype: str = "float32",
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        """Loads base model and checkpoint. base: instead of the one that the checkpoint names; max_pixels: of an image,
        0 for the checkpoint's. MissingWeightsError, InputError."""
        checkpoint = checkpoint_of(folder, step)
        self._settings_file = settings_file(checkpoint)
        self.settings = read_settings(self._settings_file)
        self.max_pixels = max_pixels or self.settings.data.max_frame_pixels
        self._template = words_of(template, self.settings)
        self._batch_size = batch_size
        self._model, self._processor, self._head = self._load(checkpoint, base, dtype)
        self._model, self._head = self._model.to(device).eval(), self._head.to(device)

    def _load(self, checkpoint: Path, base: str, dtype: str) -> tuple[Any, Any, torch.Tensor]:
        import torch
        from transformers import AutoImageProcessor, AutoProcessor, Qwen2_5_VLForConditionalGeneration

        settings = self.settings
        place = resolve_base(base, settings.model.model_name_or_path, self._settings_file)
        found = read_tensors(checkpoint, settings.lora)
        head = found.head(settings.model.output_dim, settings.lora.scale)
        processor: Any = AutoProcessor.from_pretrained(place)
        processor.image_processor = AutoImageProcessor.from_pretrained(place, backend="pil")  # as transformers 4.51's
        processor.tokenizer.padding_side = "right"
        model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(place, dtype=getattr(torch, dtype))
        grown = 0
        if settings.model.use_special_tokens:
            grown = _take_reward_token(model, processor.tokenizer)
        put_into(model, found, settings.lora, grown)
        width = model.config.text_config.hidden_size
        if head.shape[1] != width:
            raise InputError(
                f"rm_head.weight has the shape {tuple(head.shape)}", expected=f"({settings.model.output_dim}, {width})"
            )
        return model, processor, head

    @property
    def mean(self) -> float:
        """Of the raw scores: what a score of 0 is."""
        return self.settings.score.VQ_mean

    @property
    def std(self) -> float:
        """Of the raw scores, 1 where the checkpoint does not say."""
        return self.settings.score.VQ_std

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), (raw score - mean) / std. InputError for a prompt that holds the reward token."""
        raw = [np.zeros(0, np.float32)]
        for start in range(0, len(images), self._batch_size):
            rows = slice(start, start + self._batch_size)
            raw.append(self._raw_scores(images[rows], prompts[rows]))
        return ((np.concatenate(raw) - self.mean) / self.std).astype(np.float32)

    def _raw_scores(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        import torch

        inputs = self._inputs(images, prompts)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        # Three equal rows of positions: those of Qwen2.5-VL itself would follow the image's grid.
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        with torch.inference_mode():
            states = self._model.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
                use_cache=False,
            ).last_hidden_state
            outputs = states.float() @ self._head.T
        return self._pooled(outputs, ids, mask).cpu().numpy()

    def _inputs(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        texts = [
            self._processor.apply_chat_template(
                chat_messages(ChatRequest(self.text_of(prompt), (image,))), tokenize=False, add_generation_prompt=True
            )
            for image, prompt in zip(images, prompts, strict=True)
        ]
        resized = [smart_resize(image, self.max_pixels) for image in images]
        inputs = self._processor(text=texts, images=resized, padding=True, return_tensors="pt")
        return dict(inputs.to(self._head.device))

    def text_of(self, prompt: str) -> str:
        """What stands behind the image in the user's turn. InputError."""
        text = fill_words(self._template, prompt)
        wanted = self.settings.model.output_dim
        if self.settings.pooling == "special" and text.count(REWARD_TOKEN) != wanted:
            raise InputError(
                f"{text.count(REWARD_TOKEN)} times {REWARD_TOKEN} in {text!r}",
                expected=f"{wanted}, all of the template: a prompt has none",
            )
        return text

    def _pooled(self, outputs: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, length, output_dim) -> float32 (n,): the first number, VQ, of each row."""
        import torch

        if self.settings.pooling == "special":
            token = self._processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
            first = (ids == token).int().argmax(-1)  # of three tokens, the first one's first number is VQ's
            return outputs[torch.arange(len(ids), device=ids.device), first, 0]
        last = mask.sum(-1) - 1
        if self.settings.pooling == "last":
            return outputs[torch.arange(len(ids), device=ids.device), last, 0]
        return torch.stack([row[:end, 0].mean() for row, end in zip(outputs, last.tolist(), strict=True)])


def resolve_base(base: str, named: str, file: Path) -> Path:
    """The base model's folder: of `base`, or else of the one that the checkpoint names. MissingWeightsError."""
    from inference.sound_weights import sound_model

    if base:
        return sound_model(base)
    if not named:
        raise InputError("no base model", file=str(file), field="model_config.model_name_or_path", expected="a `base`")
    try:
        return sound_model(named)
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"names the base model {named!r}: {error.problem}",
            file=str(file),
            field="model_config.model_name_or_path",
            expected=f"{error.expected}; or another place for it (`base`)",
        ) from error


def _take_reward_token(model: Any, tokenizer: Any) -> int:
    """The token in the vocabulary, and as many rows in the embedding as the tokenizer has tokens. Returns how many rows
    the base model had too few."""
    tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    rows = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return max(len(tokenizer) - rows, 0)


def words_of(template: str, settings: CheckpointSettings) -> str:
    """The text with {text_prompt} or {prompt} that a checkpoint is asked with: the user's file, else our own words, or
    the bare prompt where the checkpoint was trained with it. What may not be its own words is said once. InputError."""
    kind = settings.data.prompt_template_type
    if template == OWN_WORDS:
        if kind == "none" and settings.pooling != "special":
            return "{prompt}"
        say_once(
            f"the verifier was trained with the words {kind!r}, which are not ours to ship: it is asked with ours, "
            "inference/prompts/rate.txt. Its own, as a text file (of the command `score`: --template), give its scores"
        )
        tokens = REWARD_TOKEN * settings.model.output_dim if settings.pooling == "special" else ""
        return load_prompt(OWN_WORDS).replace("{token}", tokens).rstrip()
    words = load_prompt(template)
    fill_words(words, "")
    published = words.replace("{prompt}", "{text_prompt}") if "{text_prompt}" not in words else words
    if kind == "detailed_special" and hashlib.sha256(published.encode()).hexdigest() != PUBLISHED_WORDS:
        say_once(f"{template}: not the words that the published verifier was trained with (SHA-256 {PUBLISHED_WORDS})")
    return words


def fill_words(words: str, prompt: str) -> str:
    """A template with {text_prompt}, as the published one has, or {prompt}. InputError where it has neither."""
    if not re.search(r"\{(text_)?prompt\}", words):
        raise InputError(f"no place for the prompt in the template {words!r}", expected="{text_prompt} or {prompt}")
    return re.sub(r"\{(text_)?prompt\}", lambda _: prompt, words)


def smart_resize(image: np.ndarray, max_pixels: int, min_pixels: int = MIN_PIXELS) -> Image.Image:
    """uint8 (H, W, 3) -> sides that are multiples of 28, between `min_pixels` and `max_pixels` pixels, as qwen_vl_utils
    does it, bicubic. InputError for an image that is 200 times as long as wide."""
    height, width = image.shape[:2]
    if max(height, width) > MAX_RATIO * min(height, width):
        raise InputError(f"an image of {width}x{height} pixels", expected=f"sides at most 1 to {MAX_RATIO}")
    high, wide = (max(SIDE, round(side / SIDE) * SIDE) for side in (height, width))
    if high * wide > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        high, wide = (max(SIDE, math.floor(side / shrink / SIDE) * SIDE) for side in (height, width))
    elif high * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        high, wide = (math.ceil(side * grow / SIDE) * SIDE for side in (height, width))
    return Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
