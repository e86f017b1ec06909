"""LoRAs in diffusers' form, added to a pipeline's weights while it is loaded: nothing gets slower or larger by them.

Every tensor of the file is used, or the file is refused with the tensor's name: a LoRA that was half applied draws
other images than its author's, and nothing says so.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.sound_weights import sound_weights
from schemas.errors import InputError

if TYPE_CHECKING:
    import torch

WEIGHTS = "pytorch_lora_weights.safetensors"
_ADAPTER = "fused"
_PART = re.compile(
    r"(?P<module>.+?)\.(lora_(?P<peft>A|B)|lora\.(?P<old>down|up)|lora_linear_layer\.(?P<older>down|up))\.weight"
)
_MAX_NAMED = 3


def fuse_lora(pipeline: Any, folder: Path, strength: float = 1.0) -> None:
    """Add the LoRA of a folder (rank and alpha are in its file's header, alpha = rank without one), times `strength`,
    to the weights.

    InputError for a folder without one, for one that is no LoRA of this model, for one of which a part would not be
    used, and for a strength that is no number.
    """
    if not math.isfinite(strength):
        raise InputError(f"{strength}", field="lora_strength", expected="a number; 1 for the LoRA as it was trained")
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder} holds no LoRA", field="lora", expected=f"a folder with {WEIGHTS}")
    sound_weights(path)
    try:
        with _complaints() as said:
            tensors, alphas = _read(pipeline, folder)
        if said:
            raise _refusal(path, said)
        modules = _check_tensors(tensors, pipeline, path)
        _check_alphas(alphas, modules, path)
        with _complaints() as said:
            pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS, adapter_name=_ADAPTER)
    except (ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} does not fit: {error}", field="lora", expected=_EXPECTED) from error
    unused = [f"{name} got no LoRA" for name in sorted(modules - _adapted(pipeline))]
    if unused or said:
        raise _refusal(path, unused + said)
    components = [one for one in _components(pipeline) if any(name.startswith(f"{one}.") for name in modules)]
    pipeline.fuse_lora(components=components, lora_scale=strength)
    pipeline.unload_lora_weights()


def _components(pipeline: Any) -> list[str]:
    """Those that diffusers can give a LoRA: of FLUX, transformer and CLIP; of SDXL, the UNet and both CLIPs."""
    return [name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None) is not None]


def _read(pipeline: Any, folder: Path) -> tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]:
    """Tensors and alphas by diffusers' names; some classes give the alphas apart, others have them in the tensors."""
    wanted: dict[str, Any] = {"weight_name": WEIGHTS, "return_lora_metadata": True}
    if "return_alphas" in inspect.signature(pipeline.lora_state_dict).parameters:
        wanted["return_alphas"] = True
    if getattr(pipeline, "unet", None) is not None:
        wanted["unet_config"] = pipeline.unet.config
    tensors, *others = pipeline.lora_state_dict(str(folder), **wanted)
    return tensors, (others[0] or {}) if len(others) > 1 else {}


_EXPECTED = "a LoRA of the generator's model, every tensor of which has its place: transformer.<layer>.lora_A.weight"


def _check_tensors(tensors: Mapping[str, torch.Tensor], pipeline: Any, path: Path) -> set[str]:
    """Layers that a LoRA is for, by component and name. InputError for tensors that have no place there, no partner, or
    another shape than it takes."""
    layers = {
        f"{component}.{name}": layer
        for component in _components(pipeline)
        for name, layer in getattr(pipeline, component).named_modules()
    }
    found: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    problems = []
    for name, tensor in tensors.items():
        part = _PART.fullmatch(name)
        module = _layer_of(part["module"], layers) if part else None
        if part is None or module is None:
            problems.append(f"{name} has no place in the model")
            continue
        side = part["peft"] or ("A" if "down" in (part["old"], part["older"]) else "B")
        if side in found[module]:
            problems.append(f"{name} is there twice")
        found[module][side] = tensor
    for module, sides in found.items():
        if len(sides) < 2:
            problems.append(f"{module} has lora_{next(iter(sides))} without its partner")
            continue
        shape = tuple(getattr(getattr(layers[module], "weight", None), "shape", ()))
        down, up = sides["A"], sides["B"]
        if down.ndim != 2 or up.ndim != 2 or (up.shape[0], down.shape[1]) != shape or down.shape[0] != up.shape[1]:
            problems.append(f"{module} has {tuple(up.shape)} times {tuple(down.shape)}, where the model has {shape}")
    if problems or not found:
        raise _refusal(path, problems or ["no tensor of a LoRA"])
    return set(found)


def _layer_of(name: str, layers: Mapping[str, Any]) -> str | None:
    """A layer by the name that a file gives it: transformers' text encoders lost a level of names."""
    shorter = name.replace("text_encoder.text_model.", "text_encoder.", 1)
    longer = name.replace("text_encoder.", "text_encoder.text_model.", 1)
    return next((one for one in (name, shorter, longer) if one in layers), None)


def _check_alphas(alphas: Mapping[str, Any], modules: set[str], path: Path) -> None:
    """InputError for an alpha of a layer that has no LoRA."""
    strangers = [name for name in alphas if name.rpartition(".alpha")[0] not in modules]
    if strangers:
        raise _refusal(path, [f"{name} is of no layer with a LoRA" for name in strangers])


def _adapted(pipeline: Any) -> set[str]:
    """Layers that have a LoRA now."""
    return {
        f"{component}.{name}"
        for component in _components(pipeline)
        for name, layer in getattr(pipeline, component).named_modules()
        if _ADAPTER in getattr(layer, "lora_A", ())
    }


def _refusal(path: Path, problems: list[str]) -> InputError:
    more = [f"{len(problems) - _MAX_NAMED} more"] if len(problems) > _MAX_NAMED else []
    said = "; ".join([*problems[:_MAX_NAMED], *more])
    return InputError(f"would be applied in part: {said}", file=str(path), field="lora", expected=_EXPECTED)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What diffusers warns of inside: tensors that it leaves out. That a LoRA of the transformer has nothing for the
    text encoder is no news."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "No LoRA keys associated to" not in record.getMessage():
                said.append(" ".join(record.getMessage().split())[:300])

    names = ("diffusers.loaders", "diffusers.utils.peft_utils")
    kept = [(logging.getLogger(name), logging.getLogger(name).propagate) for name in names]
    listener = Listener(logging.WARNING)
    for logger, _ in kept:
        logger.addHandler(listener)
        logger.propagate = False
    try:
        yield said
    finally:
        for logger, propagates in kept:
            logger.removeHandler(listener)
            logger.propagate = propagates
