"""ImageReward (`THUDM/ImageReward`): BLIP's image encoder, its text encoder with cross-attention, and a network
without nonlinearities on the state of the text's first token.

Facts are from the published code (the package image-reward 1.5: ImageReward.py, models/BLIP/blip.py, vit.py, med.py):
the names of the tensors, the image's side and normalisation, 35 tokens, heads of 64 channels, epsilon 1e-6 in the image
encoder, and the mean and deviation that a raw score is standardised with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.device import device_of
from inference.model_store import resolve_model
from inference.rewards.open_clip_loading import read_checkpoint
from inference.sound_weights import sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch
    from transformers import BlipTextConfig, BlipVisionConfig

WEIGHTS, TEXT_CONFIG = "ImageReward.pt", "med_config.json"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TEXT_LENGTH = 35
HEAD_WIDTH = 64
PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_VISION, _TEXT, _SCORER = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."
_VISION_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"blocks\.(\d+)\.norm", r"encoder.layers.\1.layer_norm"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"blocks\.(\d+)\.attn\.", r"encoder.layers.\1.self_attn."),
    (r"blocks\.(\d+)\.", r"encoder.layers.\1."),
    (r"norm\.", "post_layernorm."),
)
"""Beginnings of names there and in transformers' `BlipVisionModel`; `BlipTextModel` has the names of the file."""


@dataclass(frozen=True)
class ImageRewardConfig:
    """Which ImageReward, and the fixed shapes it runs in."""

    model: str = model_field("THUDM/ImageReward")
    """Folder or hub id with ImageReward.pt and med_config.json, or that file beside the other."""
    tokenizer: str = model_field("google-bert/bert-base-uncased")
    """Folder or hub id of BERT's tokenizer."""
    batch_size: int = 8
    """Images a forward pass; short batches are padded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and sums; the last network's are float32."""
    device: str = execution_field("")
    """Where it computes: cpu, cuda, cuda:1; empty: cuda where there is one."""

    def open(self) -> ImageReward:
        """Load it. MissingWeightsError, InputError."""
        return ImageReward(self)


class ImageReward:
    """A `Reward`: about 0 on average and 1 its standard deviation, over the images that it was trained with."""

    def __init__(self, config: ImageRewardConfig) -> None:
        """Loads the model. MissingWeightsError; InputError for other tensors than ImageReward's."""
        from torchvision import transforms
        from transformers import AutoTokenizer

        tokenizer = resolve_model(config.tokenizer)
        place = sound_model(config.model)
        file = place / WEIGHTS if place.is_dir() else place
        for needed in (file, file.parent / TEXT_CONFIG):
            if not needed.exists():
                raise MissingWeightsError(f"no {needed.name} in {file.parent}", expected=f"{WEIGHTS} and {TEXT_CONFIG}")
        self.config, self._device = config, device_of(config.device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer)
        parts: Any = load_parts(read_checkpoint(file), file, config.dtype)
        self._vision, self._text, self._scorer = (part.to(self._device).eval().requires_grad_(False) for part in parts)
        side = self._vision.config.image_size
        bicubic = transforms.InterpolationMode.BICUBIC
        self._prepare = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.Resize(side, interpolation=bicubic),
                transforms.CenterCrop(side),
                transforms.ToTensor(),
                transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
            ]
        )

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """images uint8 (H, W, 3), one prompt each -> float32 (n,); of a long prompt the first 35 tokens count."""
        if len(images) != len(prompts):
            raise InputError(f"{len(images)} images with {len(prompts)} prompts", expected="one prompt for each image")
        size = self.config.batch_size
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(images), size):
            some, texts = list(images[start : start + size]), list(prompts[start : start + size])
            lacking = size - len(some)
            found = self._scores(some + some[-1:] * lacking, texts + texts[-1:] * lacking)
            parts.append(found[: len(some)])
        return np.concatenate(parts)

    def _scores(self, images: list[np.ndarray], prompts: list[str]) -> np.ndarray:
        import torch

        prepared: list[Any] = [self._prepare(image) for image in images]
        pixels = torch.stack(prepared).to(self._device, self._vision.dtype)
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TEXT_LENGTH, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode():
            seen = self._vision(pixel_values=pixels).last_hidden_state
            states = self._text(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self._device),
            ).last_hidden_state
            raw = self._scorer(states[:, 0].float())[:, 0]
        return ((raw - MEAN) / STD).cpu().numpy()


def load_parts(tensors: Mapping[str, torch.Tensor], file: Path, dtype: str) -> tuple[Any, Any, torch.nn.Sequential]:
    """(BlipVisionModel, BlipTextModel, the network on the first token's state) of the published tensors. Those of other
    parts of BLIP are left out, as the published code does. InputError."""
    import torch
    from torch import nn
    from transformers import BlipTextModel, BlipVisionModel

    vision, text = split(tensors)
    try:
        vision_config, text_config = configs_of(vision, json.loads((file.parent / TEXT_CONFIG).read_text()))
        numbers = sorted({int(name.split(".")[2]) for name in tensors if name.startswith(_SCORER)})
        scorer = nn.Sequential(*(_linear(tensors, f"{_SCORER}{number}.") for number in numbers or [0]))
    except (KeyError, ValueError, TypeError, IndexError, OSError) as error:
        raise InputError(
            f"not ImageReward's tensors: {error}", file=str(file), expected=f"{WEIGHTS} with {TEXT_CONFIG} beside it"
        ) from error
    parts: list[Any] = []
    asked: list[tuple[Any, Any, dict[str, torch.Tensor], dict[str, Any]]] = [
        (BlipVisionModel, vision_config, vision, {}),
        (BlipTextModel, text_config, text, {"add_pooling_layer": False}),
    ]
    for kind, config, state, more in asked:
        model, report = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=getattr(torch, dtype), output_loading_info=True, **more
        )
        for what in ("missing", "unexpected", "mismatched"):
            if found := sorted(map(str, report[f"{what}_keys"])):
                raise InputError(f"of its tensors {len(found)} are {what}, e.g. {found[0]}", file=str(file))
        parts.append(model)
    return parts[0], parts[1], scorer


def split(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those of the image encoder and of the text encoder, by transformers' names."""
    vision = {_vision_name(n.removeprefix(_VISION)): t for n, t in tensors.items() if n.startswith(_VISION)}
    text = {n.removeprefix(_TEXT): t for n, t in tensors.items() if n.startswith(_TEXT)}
    text.pop("embeddings.position_ids", None)  # a constant that old checkpoints carry
    return vision, text


def configs_of(vision: Mapping[str, torch.Tensor], said: dict[str, Any]) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """Sizes of the image encoder are read off its tensors, by transformers' names; said: what med_config.json says of
    the text encoder. KeyError, ValueError, TypeError for something else."""
    from transformers import BlipTextConfig, BlipVisionConfig

    patches = vision["embeddings.patch_embedding.weight"]
    width, patch_px = patches.shape[0], patches.shape[-1]
    grid = round((vision["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    layers = [int(match[1]) for name in vision if (match := re.match(r"encoder\.layers\.(\d+)\.", name))]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("max_position_embeddings", "hidden_act", "layer_norm_eps")
    return (
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=vision["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=1 + max(layers),
            num_attention_heads=width // HEAD_WIDTH,
            image_size=grid * patch_px,
            patch_size=patch_px,
            layer_norm_eps=1e-6,
        ),
        BlipTextConfig(**{name: said[name] for name in names}, encoder_hidden_size=width, bos_token_id=None),
    )


def _vision_name(name: str) -> str:
    for there, here in _VISION_NAMES:
        renamed, found = re.subn(f"^{there}", here, name)
        if found:
            return renamed
    return name


def _linear(tensors: Mapping[str, torch.Tensor], start: str) -> torch.nn.Linear:
    from torch import nn

    weight, bias = tensors[f"{start}weight"].float(), tensors[f"{start}bias"].float()
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear
