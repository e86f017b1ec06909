"""How large a VLM's weights are once they are loaded: from the headers of its files, or as stated."""

from __future__ import annotations

import json
from pathlib import Path

from inference.model_store import base_model_of, resolve_model
from pipelines import stated_figures as stated
from pipelines.stated_figures import GIB
from pipelines.weight_headers import numbers_in
from schemas.errors import InputError, ReflectionFlowError


def vlm_weights_gib(name: str, dtype: str) -> tuple[float, str]:
    """(GiB of a VLM's weights, from what that is known): from the folder's files, of an adapter its base model's; else
    the stated size of a known one; else a 7B model's, which is an allowance. Quantised weights stay as large as their
    files."""
    each = 4 if dtype == "float32" else 2
    name, folder = _base_of(name)
    files = _weight_files(folder) if folder is not None else []
    count = sum(_parameters_in(file) for file in files)
    if files and _is_quantised(files[0].parent):
        return sum(file.stat().st_size for file in files) / GIB, "its files, quantised"
    if count:
        return count * each / GIB, f"{_billions(count)}, {dtype}, its files"
    if name in stated.VLM_PARAMETERS:
        count = stated.VLM_PARAMETERS[name]
        return count * each / GIB, f"{_billions(count)}, {dtype}, stated"
    count = stated.QWEN_7B
    return count * each / GIB, f"{_billions(count)}, {dtype}, an allowance: its size is not known"


def _base_of(name: str) -> tuple[str, Path | None]:
    """The model whose weights are loaded, and its folder where it is here."""
    try:
        folder = resolve_model(name) if name else None
        base = base_model_of(folder) if folder is not None and folder.is_dir() else None
    except ReflectionFlowError:  # whoever needs the model is told
        return name, None
    return (name, folder) if base is None else _base_of(base)


def _weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads: others are there for other programs."""
    return sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []


def _parameters_in(file: Path) -> int:
    """Numbers in a file of weights; 0 for what is none: whoever loads it is told."""
    try:
        return numbers_in(file)
    except InputError:
        return 0


def _is_quantised(folder: Path) -> bool:
    try:
        return "quantization_config" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _billions(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 5e7 else f"{count / 1e6:.1f}M"
