"""LoRAs in diffusers' form, added to a pipeline's weights while it is loaded: nothing gets slower or larger by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.errors import InputError

WEIGHTS = "pytorch_lora_weights.safetensors"


def fuse_lora(pipeline: Any, folder: Path) -> None:
    """Add the LoRA of a folder (rank and alpha are in its file's header, alpha = rank without one) to the weights.

    InputError for a folder without one, or one that is no LoRA of this model.
    """
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no LoRA", field="lora", expected=f"a folder with {WEIGHTS}")
    try:
        pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS)
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{folder / WEIGHTS} does not fit: {error}", field="lora", expected="a LoRA of the generator's model"
        ) from error
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
