"""Qwen2.5-VL on disk: a whole model, or a LoRA adapter (as peft writes it) that names its base model.

An adapter is merged while it is loaded; for vLLM, which serves folders, the merged model is written once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from inference.model_store import base_model_of, resolve_model
from schemas.atomic_file import put_in_place


def load_qwen(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Model, adapter merged, in a floating-point type by name; and its processor. MissingWeightsError for its base."""
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    base_name = base_model_of(folder)
    base = folder if base_name is None else resolve_model(base_name)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=getattr(torch, dtype))
    if base_name is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return model, AutoProcessor.from_pretrained(base)


def merged_folder(folder: Path, digest: str, dtype: str) -> Path:
    """A folder that vLLM can serve: `folder` itself, or the adapter's merged model in the cache, under its digest."""
    if base_model_of(folder) is None:
        return folder
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "reflectionflow" / "merged"
    merged = home / f"{folder.name}-{digest}-{dtype}"
    if not merged.exists():
        home.mkdir(parents=True, exist_ok=True)
        model, processor = load_qwen(folder, dtype)
        temporary = Path(tempfile.mkdtemp(dir=home))
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        try:
            put_in_place(temporary, merged)
        except OSError:  # another process was first
            shutil.rmtree(temporary, ignore_errors=True)
    return merged
