"""LoRAs in diffusers' form, added to a pipeline's weights while it is loaded: nothing gets slower or larger by them."""

from __future__ import annotations

import logging
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
    logger = logging.getLogger("diffusers.loaders.lora_base")
    logger.addFilter(_is_news)
    try:
        pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS)
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{folder / WEIGHTS} does not fit: {error}", field="lora", expected="a LoRA of the generator's model"
        ) from error
    finally:
        logger.removeFilter(_is_news)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()


def _is_news(record: logging.LogRecord) -> bool:
    """False for the warning that a LoRA of the transformer has nothing for the text encoder."""
    return "No LoRA keys associated to CLIPTextModel" not in record.getMessage()
