"""HPSv3 (`MizzenAI/HPSv3`): a Qwen2-VL-7B whose hidden state at the token <|Reward|> a small network turns into two
numbers, mean and spread of a preference. The mean is the score.

Facts are from the published code (MizzenAI/HPSv3, the package hpsv3 1.0.0): an image is resized to about 200,704 pixels
with sides of 28; the reward token stands inside the user's turn; positions count 0, 1, 2, ... on all three rotary axes,
image tokens included (transformers 4.45 did that where nobody passed positions); the vocabulary is cut to the
tokenizer's; the model computes in bfloat16, the head in float32.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.device import device_of
from inference.interfaces import ChatRequest
from inference.model_store import resolve_model
from inference.sound_weights import sound_model
from inference.vlm.chat_inputs import chat_messages
from inference.vlm.image_verifier import OWN_WORDS, fill_words, smart_resize
from inference.vlm.prompts import load_prompt
from inference.vlm.reward_checkpoint import say_once
from schemas.configuration import execution_field, model_field, template_field
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch

REWARD_TOKEN = "<|Reward|>"
PIXELS = 256 * 28 * 28  # least and most of an image (data_collator_qwen.py: min_pixels, max_pixels)
WEIGHTS = "HPSv3.safetensors"
PUBLISHED_WORDS = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
"""SHA-256 of the published words with their {text_prompt} (data_collator_qwen.py: INSTRUCTION, then
prompt_with_special_token), as UTF-8."""
_HEAD = re.compile(r"rm_head\.(\d+)\.(weight|bias)")
_NAMES = (("model.language_model.", "language_model."), ("model.visual.", "visual."), ("model.", "language_model."))
"""Beginnings of names in the file (transformers 4.45's, or newer) and in `Qwen2VLModel`; others stay."""


@dataclass(frozen=True)
class Hpsv3Config:
    """Which HPSv3. Images are scored one by one, so that a score depends on its image and prompt alone; at 7B a batch
    would be hardly faster."""

    model: str = model_field("MizzenAI/HPSv3")
    """Folder or hub id with HPSv3.safetensors, or that file."""
    base: str = model_field("Qwen/Qwen2-VL-7B-Instruct")
    """Folder or hub id of the Qwen2-VL that it was made of: config, tokenizer and image processor are read there."""
    template: str = template_field(OWN_WORDS)
    """Text file with the words it was trained with, {text_prompt} or {prompt} and <|Reward|> in them, taken as it is.
    They are not ours to ship: without it, our own words are used (inference/prompts/rate.txt), and its scores are not
    its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of weights and sums; the head's are float32."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: cuda where there is one."""

    def open(self) -> Hpsv3Reward:
        """Load it. MissingWeightsError, InputError."""
        return Hpsv3Reward(self)


class Hpsv3Reward:
    """A `Reward`: the mean of the preference, without bounds."""

    def __init__(self, config: Hpsv3Config) -> None:
        """Loads the model. MissingWeightsError; InputError for other weights than a Qwen2-VL's with such a head."""
        from transformers import AutoImageProcessor, AutoProcessor

        weights, base = _weights_file(config.model), resolve_model(config.base)
        self._words, self._device = words_of(config.template), device_of(config.device)
        self._processor: Any = AutoProcessor.from_pretrained(base)
        self._processor.image_processor = AutoImageProcessor.from_pretrained(base, backend="pil")
        self._processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
        self._token = self._processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
        model, self._head = _load(weights, base, config.dtype, self._token, self._device)
        self._model = model.to(self._device).eval().requires_grad_(False)

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """images uint8 (H, W, 3), one prompt each -> float32 (n,). InputError for a prompt with the reward token."""
        if len(images) != len(prompts):
            raise InputError(f"{len(images)} images with {len(prompts)} prompts", expected="one prompt for each image")
        texts = [self.text_of(prompt) for prompt in prompts]
        return np.array([self._score(*row) for row in zip(images, texts, strict=True)], np.float32)

    def text_of(self, prompt: str) -> str:
        """What stands behind the image in the user's turn. InputError."""
        if REWARD_TOKEN in prompt:
            raise InputError(f"{REWARD_TOKEN} in the prompt {prompt!r}", expected="a prompt without the reward token")
        return fill_words(self._words, prompt)

    def _score(self, image: np.ndarray, text: str) -> float:
        import torch

        message = chat_messages(ChatRequest(text, (image,)))
        row = self._processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        inputs = self._processor(text=[row], images=[smart_resize(image, PIXELS, PIXELS)], return_tensors="pt")
        inputs = inputs.to(self._device)
        ids = inputs["input_ids"]
        with torch.inference_mode():
            states = self._model(
                input_ids=ids,
                position_ids=torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape),
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
                use_cache=False,
            ).last_hidden_state
            return self._head(states[ids == self._token].float())[0, 0].item()


def words_of(template: str) -> str:
    """The text with the reward token and a place for the prompt: the user's file, else our own. What may not be its
    own words is said once. InputError."""
    if template == OWN_WORDS:
        say_once(
            "HPSv3 was trained with words that are not ours to ship: it is asked with ours, inference/prompts/rate.txt."
            " Its own, as a text file (`hpsv3.template`; docs/models.md says how to get it), give its scores"
        )
        return load_prompt(OWN_WORDS).replace("{token}", REWARD_TOKEN)
    words = load_prompt(template)
    fill_words(words, "")
    if words.count(REWARD_TOKEN) != 1:
        raise InputError(f"{words.count(REWARD_TOKEN)} times {REWARD_TOKEN}", file=template, expected="once")
    published = words.replace("{prompt}", "{text_prompt}") if "{text_prompt}" not in words else words
    if hashlib.sha256(published.encode()).hexdigest() != PUBLISHED_WORDS:
        say_once(f"{template}: not the words that HPSv3 was trained with (SHA-256 {PUBLISHED_WORDS})")
    return words


def _weights_file(name: str) -> Path:
    place = sound_model(name)
    if not place.is_dir():
        return place
    if not (place / WEIGHTS).exists():
        raise MissingWeightsError(
            f"no {WEIGHTS} in {place}", expected="the folder as MizzenAI/HPSv3 has it, or a safetensors file"
        )
    return place / WEIGHTS


def _load(file: Path, base: Path, dtype: str, token: int, device: str) -> tuple[Any, torch.nn.Sequential]:
    """(Qwen2VLModel, head) of one file that holds both."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoConfig, Qwen2VLModel

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise InputError(f"does not read as safetensors: {error}", file=str(file)) from error
    config: Any = AutoConfig.from_pretrained(base)
    if config.model_type != "qwen2_vl":
        raise InputError(f"{base} holds a {config.model_type} model", field="hpsv3.base", expected="a Qwen2-VL")
    head = head_of({name: tensor for name, tensor in tensors.items() if name.startswith("rm_head.")}, file)
    kept = {_name_here(n): t for n, t in tensors.items() if not n.startswith(("rm_head.", "lm_head."))}
    embedding = kept.get("language_model.embed_tokens.weight")
    width = config.text_config.hidden_size
    if embedding is None or embedding.shape[1] != width or embedding.shape[0] <= token or head[0].in_features != width:
        raise InputError(
            f"embeddings of {None if embedding is None else tuple(embedding.shape)}, a head of {head[0].in_features}",
            file=str(file),
            expected=f"a width of {width} and more rows than {token}, as {base} has with {REWARD_TOKEN}",
        )
    config.text_config.vocab_size = len(embedding)
    kind: Any = Qwen2VLModel
    model, report = kind.from_pretrained(
        None, config=config, state_dict=kept, dtype=getattr(torch, dtype), output_loading_info=True
    )
    problems = {what: sorted(report[f"{what}_keys"]) for what in ("missing", "unexpected", "mismatched")}
    if any(problems.values()):
        said = ", ".join(f"{len(names)} {what}, e.g. {names[0]}" for what, names in problems.items() if names)
        raise InputError(f"not the weights of {base} with a reward head: {said}", file=str(file))
    return model, head.to(device)


def head_of(tensors: dict[str, torch.Tensor], file: Path) -> torch.nn.Sequential:
    """Linear layers with ReLU between them, float32 (qwen2vl_trainer.py: rm_head_type "ranknet"; dropout does nothing
    here). tensors: rm_head.NUMBER.weight and .bias. InputError."""
    import torch
    from torch import nn

    named = {match.groups(): tensor for name, tensor in tensors.items() if (match := _HEAD.fullmatch(name))}
    numbers = sorted({int(number) for number, _ in named})
    if len(named) != len(tensors) or not numbers or len(named) != 2 * len(numbers):
        raise InputError(f"a reward head of {sorted(tensors)}", file=str(file), expected="rm_head.NUMBER.weight, .bias")
    layers: list[nn.Module] = []
    for number in numbers:
        weight, bias = (named[str(number), what].float() for what in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        layers += [nn.ReLU(), linear]
    return nn.Sequential(*layers[1:]).to(torch.float32).eval().requires_grad_(False)


def _name_here(name: str) -> str:
    for there, here in _NAMES:
        if name.startswith(there):
            return here + name.removeprefix(there)
    return name
