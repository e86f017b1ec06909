"""A trained verifier: a VLM whose hidden state at a reward token a bias-free linear head turns into one number.
Which form of it a folder has is told by its files: the published one is `image_verifier`'s, ours is this.

Our folder holds what differs from the base model: `adapter_model.safetensors` (LoRA on the language model, as peft
writes it), `verifier.safetensors` (the head, and the vision tower where that was trained) and `verifier.json`.
ReflectionFlow §3.2 (verifier post-processing) and VideoAlign, whose token and head these are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inference.interfaces import ChatRequest, OneCallAnImage, Reward, Verifier
from inference.vlm.chat_inputs import accepted, chat_text, model_inputs
from inference.vlm.endpoint import Journal
from inference.vlm.prompts import fill_prompt
from inference.vlm.vlm import VlmConfig
from schemas.configuration import model_field, template_field
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch

REWARD_TOKEN = "<|VQ_reward|>"
HEAD = "head.weight"
VISION_PREFIX = "visual."


@dataclass(frozen=True)
class VerifierDescription:
    """`verifier.json`. A reward is (head output - mean) / std, of the training pairs' images."""

    base_model: str
    template: str
    mean: float = 0.0
    std: float = 1.0
    reward_token: str = REWARD_TOKEN


def read_description(folder: Path) -> VerifierDescription:
    """InputError for a folder that is no verifier."""
    try:
        return VerifierDescription(**json.loads((folder / "verifier.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder} is no verifier: {error}",
            expected="a folder that `python -m trainers verifier` wrote, with a verifier.json, or a published "
            "checkpoint: a model_config.json and checkpoint-STEP folders",
        ) from error


def write_description(folder: Path, description: VerifierDescription) -> None:
    """`verifier.json`."""
    (folder / "verifier.json").write_text(json.dumps(asdict(description), indent=2) + "\n")


@dataclass(frozen=True)
class TrainedVerifierConfig:
    """Which Bradley-Terry model verifies."""

    model: str = model_field("")
    """Folder that `python -m trainers verifier` wrote, or a checkpoint in the published layout, by hub id
    (diffusion-cot/Image-Verifier) or folder. The flags below are the published layout's."""
    base: str = model_field("")
    """Base model, instead of the one that the checkpoint names."""
    template: str = template_field("rate")
    """Text file with the words it was trained with, {text_prompt} or {prompt} in them, taken as it is. They are not
    ours to ship: without it, our own words are used (inference/prompts/rate.txt), and its scores are not its own."""
    max_pixels: int = 0
    """An image is shrunk to as many; 0: as many as the checkpoint says."""
    step: int = -1
    """Which checkpoint of several; -1: the newest."""
    vlm: VlmConfig | None = None
    """Whose device, dtype and batch size it takes: the run's VLM."""
    scores: Literal["log-odds", "deviations"] = "log-odds"
    """log-odds: differences are those of the Bradley-Terry model, as other verifiers' are; deviations: its rewards, in
    standard deviations of its training images' rewards."""

    def implied_models(self) -> tuple[str, ...]:
        """The base model, where the checkpoint names it and nothing else does."""
        from inference.model_store import resolve_model
        from inference.vlm.reward_checkpoint import base_named, is_reward_checkpoint

        if not self.model or self.base:
            return ()
        try:
            folder = resolve_model(self.model)
        except MissingWeightsError:  # which is told of the model itself
            return ()
        named = base_named(folder, self.step) if is_reward_checkpoint(folder) else None
        return (named,) if named else ()

    def open(self, journal: Journal | None = None) -> Verifier:
        """Load it. MissingWeightsError, InputError."""
        from inference.model_store import resolve_model
        from inference.vlm.image_verifier import ImageVerifier
        from inference.vlm.reward_checkpoint import is_reward_checkpoint

        del journal  # it works in this process: asked again, it says the same
        if not self.model:
            raise InputError(
                "a trained verifier without a model", field="trained.model", expected="a verifier's folder"
            )
        vlm, folder = self.vlm or VlmConfig(), resolve_model(self.model)
        model: ImageVerifier | TrainedVerifier
        if is_reward_checkpoint(folder):
            model = ImageVerifier(
                folder,
                base=self.base,
                template=self.template,
                max_pixels=self.max_pixels,
                step=self.step,
                dtype=vlm.dtype,
                device=vlm.device,
                batch_size=vlm.batch_size,
            )
        else:
            if self.base:
                raise InputError(
                    f"{folder} names its base model itself", field="trained.base", expected="a published checkpoint"
                )
            model = TrainedVerifier(self.model, vlm)
        return model if self.scores == "deviations" else LogOdds(model, model.std)


class TrainedVerifier(OneCallAnImage):
    """See `inference.interfaces.Verifier`; differences of rewards times `std` are Bradley-Terry log-odds."""

    def __init__(self, folder_name: str, config: VlmConfig) -> None:
        """Loads base model, adapter and head; of `config` device, dtype and batch size count."""
        import torch

        from inference.model_store import resolve_model
        from inference.sound_weights import sound_model
        from inference.vlm.adapters import load_vlm, merge_adapter

        folder = sound_model(folder_name)
        self.description = read_description(folder)
        dtype = getattr(torch, config.dtype)
        model, processor = load_vlm(resolve_model(self.description.base_model), config.dtype)
        add_reward_token(model, processor, self.description.reward_token)
        head, vision = read_weights(folder)
        if vision:
            load_vision(model, vision, folder)
        if (folder / "adapter_config.json").exists():
            model = merge_adapter(model, folder)
        self._head = head.to(config.device, dtype)
        self._model, self._processor, self._config = model.to(config.device).eval(), processor, config

    @property
    def std(self) -> float:
        """Of the training images' rewards."""
        return self.description.std

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), normalised."""
        import torch

        size = self._config.batch_size
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(images), size):
            inputs = reward_inputs(
                self._processor, images[start : start + size], prompts[start : start + size], self.description
            ).to(self._config.device)
            with torch.inference_mode():
                parts.append(rewards_of(self._model, self._head, dict(inputs)).float().cpu().numpy())
        return (np.concatenate(parts) - self.description.mean) / self.description.std


class LogOdds(OneCallAnImage):
    """A Bradley-Terry model in its own unit again: differences are log-odds, as those of other verifiers are."""

    def __init__(self, model: Reward, std: float) -> None:
        self._model, self._std = model, np.float32(std)

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """float32 (n,), about 0 for an average image."""
        return self._model.score(images, prompts) * self._std


def read_weights(folder: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The head's weight, and the vision tower's by the base model's names: none where it was not trained."""
    from safetensors.torch import load_file

    from inference.sound_weights import sound_weights

    file = sound_weights(folder / "verifier.safetensors")
    tensors = load_file(file)
    strangers = [name for name in tensors if name != HEAD and not name.startswith(VISION_PREFIX)]
    if HEAD not in tensors or strangers:
        problem = f"tensors without a use: {', '.join(strangers[:3])}" if strangers else f"no {HEAD}"
        raise InputError(problem, file=str(file), expected=f"{HEAD}, and tensors {VISION_PREFIX}*")
    vision = {k.removeprefix(VISION_PREFIX): v for k, v in tensors.items() if k.startswith(VISION_PREFIX)}
    return tensors[HEAD], vision


def vision_tower(model: Any) -> Any:
    """The part of a VLM that sees, without what brings its states to the language model's width where that is a part of
    its own. InputError for a class where it is not found."""
    tower = model.get_encoder(modality="image")
    if tower is None or tower is model or not hasattr(tower, "state_dict"):
        raise InputError(
            f"{type(model).__name__} has no vision tower of its own",
            field="base_model",
            expected="a VLM with one, as Qwen-VL, InternVL and Gemma 3 have",
        )
    return tower


def load_vision(model: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """A trained vision tower's weights. InputError (file) for another model's."""
    try:
        vision_tower(model).load_state_dict(tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"its vision tower is not that of {type(model).__name__}: {said}",
            file=str(folder / "verifier.safetensors"),
            expected="the base model that it was trained from",
        ) from error


def add_reward_token(model: Any, processor: Any, token: str) -> None:
    """The token in the vocabulary, and a row for it in the embedding, where the base model has none: the mean of all
    others, in training as in use."""
    import torch

    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # so that the reward token is the last of every row
    if token not in tokenizer.get_vocab():
        tokenizer.add_tokens([token], special_tokens=True)
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            weight = model.get_input_embeddings().weight
            with torch.no_grad():
                weight[rows:] = weight[:rows].float().mean(0).to(weight.dtype)


def reward_inputs(
    processor: Any, images: Sequence[np.ndarray], prompts: Sequence[str], description: VerifierDescription
) -> Any:
    """What the model is given for each image and its prompt; every row ends in the reward token."""
    requests = [
        ChatRequest(fill_prompt(description.template, prompt=prompt), (image,))
        for image, prompt in zip(images, prompts, strict=True)
    ]
    texts = [f"{chat_text(processor, request)}{description.reward_token}" for request in requests]
    return model_inputs(processor, texts, [request.images for request in requests])


def rewards_of(model: Any, head: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """(n,): the head on the last hidden state of the last token. head: (1, hidden)."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = whole.base_model(**accepted(whole, inputs)).last_hidden_state[:, -1]
    return (hidden @ head.T.to(hidden.dtype))[:, 0]
