"""VLMs on disk: a whole model of any class that transformers' auto class opens, or a LoRA adapter (as peft writes it)
that names its base model.

An adapter is merged while it is loaded; for vLLM, which serves folders, the merged model is written once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inference.model_store import base_model_of, resolve_model
from inference.sound_weights import loaded_whole, sound_weights
from inference.vlm.chat_inputs import prepare
from schemas.atomic_file import put_in_place
from schemas.digests import write_manifest
from schemas.errors import InputError

_VLM = (
    "a vision-language model that transformers opens without code of its own: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, "
    "InternVL (-HF), Gemma 3, LLaVA, SmolVLM and others"
)
_SIGHT = re.compile("vision|vit|image|pixel|patch|vq")
"""In a key of config.json: of vision_config and its like."""
_PROCESSOR = "a VLM's folder with its processor: tokenizer, preprocessor_config.json or processor_config.json"
_ADAPTER = "a LoRA of the base model that adapter_config.json names, every matrix with its partner"


def load_vlm(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Model, adapter merged, in a floating-point type by name; and its processor. MissingWeightsError for its base;
    InputError (file) for what is no VLM, before any weights are read."""
    import torch
    from transformers import AutoModelForImageTextToText

    base_name = base_model_of(folder)
    base = folder if base_name is None else resolve_model(base_name)
    check_vlm(base)
    check_class(base)
    processor = load_processor(base)
    sound_weights(base)
    with loaded_whole(base):
        model: Any = AutoModelForImageTextToText.from_pretrained(base, dtype=getattr(torch, dtype))
    if base_name is not None:
        model = merge_adapter(model, folder)
    return model, processor


def load_processor(folder: Path) -> Any:
    """Of a VLM's folder. InputError (file) for a folder without one that can ask about an image."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"its processor does not load: {said}", file=str(folder), expected=_PROCESSOR) from error
    return prepare(processor, folder)


def check_vlm(folder: Path) -> None:
    """InputError (file) for a folder whose configuration is that of no VLM. It reads one small file and imports
    nothing."""
    kind, said = kind_of(folder)
    if not any(_SIGHT.search(key) for key in said):
        raise _no_vlm(folder, f"a model of type {kind!r} that sees no images")


def check_class(folder: Path) -> None:
    """InputError (file) for a folder of a class that transformers' auto class does not open by itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind, said = kind_of(folder)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        own = " with code of its own" if "auto_map" in said else ""
        raise _no_vlm(folder, f"a model of type {kind!r}{own}")


def kind_of(folder: Path) -> tuple[str | None, dict[str, Any]]:
    """The `model_type` of a folder's configuration, and all of that. InputError (file) where there is none."""
    file = folder / "config.json"
    try:
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("no such file", file=str(file), expected=f"the folder of {_VLM}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"does not read as JSON: {error}", file=str(file), expected=f"that of {_VLM}") from error
    said = said if isinstance(said, dict) else {}
    kind = said.get("model_type")
    return (kind if isinstance(kind, str) else None), said


def _no_vlm(folder: Path, problem: str) -> InputError:
    hint = "; of InternVL the weights whose name ends in -HF or -hf" if "internvl" in problem else ""
    return InputError(problem, file=str(folder / "config.json"), field="model_type", expected=f"{_VLM}{hint}")


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with a peft adapter's LoRA in its weights. InputError that names tensors of the file that have no place
    in the model, and layers of which the file has one matrix of two."""
    from peft import PeftModel

    sound_weights(folder)
    names = getattr(model, "_checkpoint_conversion_mapping", {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of missing tensors, which are an error below
            adapted = PeftModel.from_pretrained(model, str(folder))
        found = adapted.load_adapter(str(folder), "default", key_mapping=names)  # once more, since it says what it left
    except (ValueError, RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())[:400]
        raise InputError(f"does not fit its base model: {said}", file=str(folder), expected=_ADAPTER) from error
    check_adapter(found.missing_keys, found.unexpected_keys, folder)
    return adapted.merge_and_unload()


def check_adapter(missing: Sequence[str], unexpected: Sequence[str], file: Path) -> None:
    """InputError where peft found no place for a tensor of an adapter's file, or no tensor for a matrix of its own.
    missing: base weights, which no adapter's file has, count for nothing."""
    lacking = [name for name in missing if "lora_" in name]
    said = (("have no place in it", unexpected), ("are missing", lacking))
    problems = [f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in said if names]
    if problems:
        raise InputError(
            f"not an adapter of its base model: of its tensors {'; '.join(problems)}",
            file=str(file),
            expected=_ADAPTER,
        )


def merged_folder(folder: Path, digest: str, dtype: str) -> Path:
    """A folder that vLLM can serve: `folder` itself, or the adapter's merged model in the cache, under its digest."""
    if base_model_of(folder) is None:
        check_vlm(folder)
        return sound_weights(folder)
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "reflectionflow" / "merged"
    merged = home / f"{folder.name}-{digest}-{dtype}"
    if not merged.exists():
        home.mkdir(parents=True, exist_ok=True)
        model, processor = load_vlm(folder, dtype)
        temporary = Path(tempfile.mkdtemp(dir=home))
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_manifest(temporary)
        try:
            put_in_place(temporary, merged)
        except OSError:  # another process was first
            shutil.rmtree(temporary, ignore_errors=True)
    return sound_weights(merged)
