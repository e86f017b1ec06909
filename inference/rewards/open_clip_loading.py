"""An OpenCLIP checkpoint (HPSv2.1 is one, of ViT-H-14) as the weights of a `transformers.CLIPModel`.

The two libraries hold the same network under other names; OpenCLIP keeps queries, keys and values in one matrix, and
projections transposed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.sound_weights import check_numbers
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"(?P<tower>visual\.)?transformer\.resblocks\.(?P<number>\d+)\.(?P<rest>.+)")
_PLAIN = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by OpenCLIP's names, from .pt (`weights_only`) or .safetensors. InputError for anything else."""
    import pickle

    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"not a checkpoint of plain tensors: {error}", file=str(path)) from error
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    check_numbers(found, path)
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def to_transformers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under the names of `CLIPModel`. InputError for one that has no place there."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name in _PLAIN:
            renamed[_PLAIN[name]] = tensor
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = tensor.T.contiguous()
        elif (match := _LAYER.fullmatch(name)) is not None:
            tower = "vision_model" if match["tower"] else "text_model"
            renamed |= _layer(f"{tower}.encoder.layers.{match['number']}", match["rest"], tensor)
        elif name != "attn_mask":  # a constant that old checkpoints carry
            raise InputError(f"unknown tensor {name!r}", expected="an OpenCLIP checkpoint of a ViT with a text tower")
    return renamed


def _layer(layer: str, rest: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = rest.rpartition("_")[2]
        parts = tensor.chunk(3)
        return {f"{layer}.self_attn.{n}_proj.{kind}": p.contiguous() for n, p in zip("qkv", parts, strict=True)}
    module, _, kind = rest.rpartition(".")
    if module not in _IN_LAYER:
        raise InputError(f"unknown tensor {layer}.{rest}", expected="an OpenCLIP checkpoint")
    return {f"{layer}.{_IN_LAYER[module]}.{kind}": tensor}
