"""The tensors of a published reward checkpoint, put into a Qwen2.5-VL of this transformers.

Their names are those of transformers 4.51 (`visual.`, `model.`) or newer (`model.visual.`, `model.language_model.`),
with what peft puts around them. LoRA is added to the weights by hand, in float32: peft's loader wants layers by names
that are no more. Every tensor is used, or the file is refused with the tensor's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.sound_weights import check_numbers, sound_weights
from inference.vlm.reward_checkpoint import ADAPTER_WEIGHTS, OTHER_WEIGHTS, WHOLE, LoraSettings
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

HEAD = "rm_head.weight"
OUTPUT_LAYER = "lm_head.weight"  # a score does not depend on it
EMBEDDING = "model.language_model.embed_tokens.weight"
_PEFT = "base_model.model."
_LORA = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


@dataclass
class CheckpointTensors:
    """By the model's own names. lora: by the name of the weight that it is added to, then `lora_A`, `lora_B` (Linear:
    (r, in), (out, r)) or `lora_embedding_A`, `lora_embedding_B` (Embedding: (r, rows), (width, r))."""

    whole: bool
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    lora: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    """Of every weight: file and name there."""

    def head(self, output_dim: int, scale: float) -> torch.Tensor:
        """float32 (output_dim, hidden). scale: of its LoRA, where it has one. InputError."""
        if HEAD not in self.weights:
            raise InputError(f"no {HEAD} in the checkpoint's files", expected="the head that makes scores of states")
        head = self.weights[HEAD]
        if head.ndim != 2 or head.shape[0] != output_dim:
            raise InputError(
                f"{self.origin[HEAD]} has the shape {tuple(head.shape)}", expected=f"({output_dim}, hidden), no bias"
            )
        return head.float() + scale * _product(self.lora[HEAD]) if HEAD in self.lora else head.float()


def read_tensors(checkpoint: Path, lora: LoraSettings) -> CheckpointTensors:
    """All there is; where two files have a weight, the adapter's counts. InputError for a missing file, for one that
    is no plain collection of tensors, and for LoRA that `lora` does not allow."""
    found = CheckpointTensors(whole=(checkpoint / WHOLE).exists())
    if found.whole:
        _add(found, checkpoint / WHOLE, _unpickle(checkpoint / WHOLE), lora)
    else:
        _add(found, checkpoint / OTHER_WEIGHTS, _unpickle(checkpoint / OTHER_WEIGHTS), lora)
        if lora.lora_enable or (checkpoint / ADAPTER_WEIGHTS).exists():
            _add(found, checkpoint / ADAPTER_WEIGHTS, _read_safetensors(checkpoint / ADAPTER_WEIGHTS), lora)
    for target, parts in found.lora.items():
        if tuple(sorted(parts)) not in (_LORA[:2], _LORA[2:]):
            raise InputError(
                f"LoRA for {target} is {' and '.join(parts)} alone", file=str(checkpoint), expected="A with its B"
            )
    return found


def _unpickle(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    try:
        said = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError("no such file", file=str(path), expected="the checkpoint's weights") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        short = str(error).strip().partition("\n")[0][:200]
        raise InputError(
            f"is not read: {short}", file=str(path), expected="tensors alone; anything else in a pickle could run code"
        ) from error
    if not isinstance(said, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in said.items()
    ):
        raise InputError("holds other things than tensors by name", file=str(path), expected="a state dict")
    check_numbers(said, path)
    return dict(said)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(sound_weights(path))
    except FileNotFoundError as error:
        raise InputError("no such file", file=str(path), expected="the LoRA that peft_lora_config speaks of") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"is not read: {error}", file=str(path), expected="safetensors") from error


def _add(found: CheckpointTensors, path: Path, tensors: Mapping[str, torch.Tensor], lora: LoraSettings) -> None:
    """Those of one file, over what others had."""
    replaced = {name.replace(".modules_to_save.default", "").replace(".modules_to_save", "") for name in tensors}
    for name, tensor in tensors.items():
        plain = name.removeprefix(_PEFT).replace(".base_layer.", ".")
        if ".original_module." in plain:  # peft's copy of a layer that was trained whole
            if name.replace(".original_module", "") in replaced:
                continue
            raise InputError(f"{name}: the trained copy is missing", file=str(path))
        plain = plain.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
        layer, part = _split_lora(plain)
        target = _name_here(layer)
        if part is None:
            found.weights[target], found.origin[target] = tensor, f"{path.name}: {name}"
            continue
        _check_lora(path, name, layer, part, tensor, lora)
        found.lora.setdefault(target, {})[part] = tensor


def _split_lora(name: str) -> tuple[str, str | None]:
    """`a.b.lora_A.default.weight` -> `a.b.weight`, `lora_A`; any other name as it is, and None."""
    pieces = name.split(".")
    at = next((i for i, piece in enumerate(pieces) if piece in _LORA), None)
    if at is None or pieces[at + 1 :] not in ([], ["weight"], ["default"], ["default", "weight"]):
        return name, None
    return ".".join([*pieces[:at], "weight"]), pieces[at]


def _name_here(name: str) -> str:
    """A weight's name in transformers 4.51 -> in this one."""
    if name.startswith(("model.visual.", "model.language_model.")):
        return name
    if name.startswith("visual."):
        return f"model.{name}"
    return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


def _check_lora(path: Path, name: str, layer: str, part: str, tensor: torch.Tensor, lora: LoraSettings) -> None:
    if not lora.lora_enable:
        raise InputError(f"{name}: LoRA", file=str(path), field="peft_lora_config.lora_enable", expected="true for it")
    excluded = [word for word in lora.lora_namespan_exclude if word in layer.removesuffix(".weight")]
    if excluded:
        raise InputError(
            f"{name}: LoRA on a layer that {excluded[0]!r} excludes",
            file=str(path),
            field="peft_lora_config.lora_namespan_exclude",
        )
    rank = tensor.shape[0 if part.endswith("A") else -1] if tensor.ndim == 2 else None
    if rank != lora.lora_r:
        raise InputError(
            f"{name} has the shape {tuple(tensor.shape)}",
            file=str(path),
            field="peft_lora_config.lora_r",
            expected=f"rank {lora.lora_r}",
        )


def put_into(model: Any, found: CheckpointTensors, lora: LoraSettings, grown_rows: int) -> None:
    """Weights, then LoRA. grown_rows: rows of the embedding that the base model had not. InputError for tensors that
    the model has not, for shapes that are not its own, and for what is missing; then `model` is not touched."""
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    tied = parameters[OUTPUT_LAYER] is parameters[EMBEDDING]
    _check_names_and_shapes(parameters, found)
    weights = {name: tensor for name, tensor in found.weights.items() if name != HEAD}
    if found.whole and (missing := parameters.keys() - weights.keys() - {OUTPUT_LAYER}):
        raise InputError(f"{WHOLE} has no {', '.join(sorted(missing)[:5])} ({len(missing)} are missing)")
    if tied and OUTPUT_LAYER in weights:  # one weight under two names: the output layer's is loaded last
        weights[EMBEDDING] = weights[OUTPUT_LAYER]
    if grown_rows and EMBEDDING not in weights:
        raise InputError(
            f"the base model's embedding has no rows for {grown_rows} of the tokens, nor has the checkpoint",
            expected=f"{EMBEDDING} in the checkpoint's files, or the base model it was trained from",
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            if name != OUTPUT_LAYER:
                parameters[name].copy_(tensor)
        for name, parts in found.lora.items():
            if name not in (OUTPUT_LAYER, HEAD):
                weight = parameters[name]
                weight.copy_(weight.float() + lora.scale * _product(parts).to(weight.device))


def _product(parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """B @ A, float32, in the weight's own layout."""
    if "lora_A" in parts:
        return parts["lora_B"].float() @ parts["lora_A"].float()
    return (parts["lora_embedding_B"].float() @ parts["lora_embedding_A"].float()).T


def _check_names_and_shapes(parameters: Mapping[str, torch.Tensor], found: CheckpointTensors) -> None:
    wrong = []
    for name, tensor in found.weights.items():
        if name == HEAD:
            continue
        if name not in parameters:
            wrong.append(f"{found.origin[name]}: the model has no such weight")
        elif tensor.shape != parameters[name].shape:
            wrong.append(
                f"{found.origin[name]}: {tuple(tensor.shape)}, where the model has {tuple(parameters[name].shape)}"
            )
    for name, parts in found.lora.items():
        if name == HEAD:
            continue
        if name not in parameters:
            wrong.append(f"LoRA for {name}: the model has no such weight")
        elif (shape := _shape_of_product(parts)) != parameters[name].shape:
            wrong.append(f"LoRA for {name}: {tuple(shape)}, where the model has {tuple(parameters[name].shape)}")
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise InputError(
            "the checkpoint does not fit the base model:\n  " + "\n  ".join(wrong[:20]) + more,
            field="base",
            expected="the base model that it was trained from",
        )


def _shape_of_product(parts: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    if "lora_A" in parts:
        return parts["lora_B"].shape[0], parts["lora_A"].shape[1]
    return parts["lora_embedding_A"].shape[1], parts["lora_embedding_B"].shape[0]
