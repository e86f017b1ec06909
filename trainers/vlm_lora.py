"""The LoRA of a Qwen2.5-VL that verifier and reflector train: where it acts, how it is kept and gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.sound_weights import sound_weights
from inference.vlm.adapters import check_adapter
from schemas.errors import MissingWeightsError

LORA_TARGETS = r".*language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The language model's projections, as a pattern over the names of a model's layers."""


def recompute_layers(model: Any) -> None:
    """Gradient checkpointing of language model and vision tower. They do it in training mode alone, which changes
    nothing else: there is no dropout."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()


def restore_adapter(model: Any, folder: Path) -> None:
    """What `save_adapter` wrote of a model of the same shape. MissingWeightsError where there is none; InputError for
    another model's."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise MissingWeightsError("no adapter to go on from", file=str(path), expected="a trained one, or train anew")
    tensors = {name: value.float() for name, value in load_file(sound_weights(path)).items()}
    found = set_peft_model_state_dict(model, tensors)
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
