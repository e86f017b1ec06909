"""The LoRA of a VLM that verifier, reflector and condenser train: where it acts, how it is kept and gone on from."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from inference.sound_weights import sound_weights
from inference.vlm.adapters import check_adapter
from schemas.errors import InputError, MissingWeightsError

ALL_LINEAR = "all-linear"
"""peft's word for every linear layer but the one that makes words: those of the vision tower, too."""
_LAYER = re.compile(r"(?P<stem>.*\.layers)\.\d+\.(?:.*\.)?(?P<name>\w+)")


def lora_targets(model: Any) -> str:
    """A pattern over the names of a VLM's layers: all linear ones of its language model's blocks (of a Qwen2.5-VL
    q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj). InputError for a class that has none."""
    from torch import nn

    decoder = model.get_decoder()
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    found = [
        match
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(f"{prefix}.") and (match := _LAYER.fullmatch(name))
    ]
    stems = {match["stem"] for match in found}
    tower = model.get_encoder(modality="image")
    holds_sight = any(module is tower for module in decoder.modules())  # then the blocks may be those that see
    if decoder is model or not prefix or len(stems) != 1 or holds_sight:
        raise InputError(
            f"{type(model).__name__} has no language model whose linear layers a LoRA could act on",
            field="--model.base-model",
            expected="a VLM with a language model of blocks of linear layers, as Qwen-VL, InternVL and Gemma 3 have",
        )
    stem = re.escape(stems.pop().removeprefix("model."))
    return rf".*{stem}\..*\.({'|'.join(dict.fromkeys(match['name'] for match in found))})"


def add_lora(model: Any, rank: int, targets: str | None = None, **settings: Any) -> Any:
    """The model, frozen, with a LoRA whose alpha is its rank. targets: a pattern over its layers' names, or ALL_LINEAR;
    by default those of its language model. settings: more of peft's."""
    from peft import LoraConfig, get_peft_model

    model.requires_grad_(False)
    return get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets or lora_targets(model), **settings)
    )


def recompute_layers(model: Any) -> None:
    """Gradient checkpointing of language model and vision tower. They do it in training mode alone, which changes
    nothing else: there is no dropout."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


def restore_adapter(model: Any, folder: Path) -> None:
    """The weights of an adapter, this project's or anybody's of peft, for a LoRA of the same layers and rank; an alpha
    that is not the rank is in the weights then. MissingWeightsError where there is none; InputError for another
    model's, for one of another rank, and for what is no LoRA."""
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise MissingWeightsError("no adapter to go on from", file=str(path), expected="a trained one, or train anew")
    tensors = {name: value.float() for name, value in load_file(sound_weights(path)).items()}
    rank = model.peft_config["default"].r
    try:
        described: Any = PeftConfig.from_pretrained(str(folder))
        was, alpha, by_root = described.r, described.lora_alpha, described.use_rslora
    except (AttributeError, ValueError, TypeError) as error:
        problem = f"tells no rank and alpha: {' '.join(str(error).split())[:200]}"
        raise InputError(problem, file=str(folder / "adapter_config.json"), expected="a LoRA's") from error
    if was != rank:
        raise InputError(f"a LoRA of rank {was}", file=str(path), field="--model.rank", expected=f"{was}; it is {rank}")
    scale = alpha / (math.sqrt(was) if by_root else was)
    tensors = {name: value * scale if ".lora_B." in name else value for name, value in tensors.items()}
    try:
        found = set_peft_model_state_dict(model, tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"does not fit: {said}", file=str(path), expected="an adapter of the base model") from error
    check_adapter(found.missing_keys, found.unexpected_keys, path)


def save_adapter(model: Any, folder: Path, base_model: str) -> None:
    """A peft adapter in bfloat16 that names its base model as `resolve_model` knows it."""
    import torch
    from safetensors.torch import load_file, save_file

    model.peft_config["default"].base_model_name_or_path = base_model
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's, with gaps for the reader to fill in
    adapter = folder / "adapter_model.safetensors"
    save_file({name: value.to(torch.bfloat16) for name, value in load_file(adapter).items()}, adapter)
