# pyright: reportArgumentType=false
"""diffusers' editing pipelines with random weights: an image and an instruction in, an image out. Their real classes.

The classes of Qwen and LongCat bring every image to about a megapixel, whatever its size, so that an edit takes seconds
here too; their VAEs have few channels and many levels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_models import parts
from tests.support.tiny_models.parts import WIDTH
from tests.support.tiny_models.text_to_image import fill_weights, flux2


def save_editor(name: str, folder: Path, seed: int = 0) -> Path:
    """name: a pipeline's class, one of `EDITORS`."""
    import torch

    torch.manual_seed(seed)
    pipeline = EDITORS[name]()
    fill_weights(pipeline)
    pipeline.save_pretrained(folder)
    return folder


def flux_kontext() -> Any:
    """For images of 4 px and multiples."""
    from diffusers import FluxKontextPipeline

    from tests.support.tiny_models.text_to_image import flux

    return FluxKontextPipeline(**flux().components)


def flux2_klein() -> Any:
    """Distilled, as FLUX.2-klein is; for images of 4 px and multiples, from 64 px a side on."""
    from diffusers import Flux2KleinPipeline

    from tests.support.tiny_models.text_to_image import flux2_klein as base

    return Flux2KleinPipeline(**base().components, is_distilled=True)


def flux2_klein_kv() -> Any:
    """The same components in the class that computes the shown image's keys and values once."""
    from diffusers import Flux2KleinKVPipeline

    return Flux2KleinKVPipeline(**flux2_klein().components)


def qwen_image_edit() -> Any:
    """For images of 32 px and multiples."""
    from diffusers import QwenImageEditPipeline

    return QwenImageEditPipeline(**_qwen_parts())


def qwen_image_edit_plus() -> Any:
    """The same for a list of images; its transformer as that of Qwen-Image-Edit-2511."""
    from diffusers import QwenImageEditPlusPipeline

    return QwenImageEditPlusPipeline(**_qwen_parts(zero_cond_t=True))


def longcat_image_edit() -> Any:
    """Draws about a megapixel, whatever it is shown."""
    from diffusers import LongCatImageEditPipeline, LongCatImageTransformer2DModel

    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = parts.image_vae((4, 4, 4, 8), 16, mid_block_add_attention=False)
    tokenizer = parts.qwen_tokenizer()
    return LongCatImageEditPipeline(
        parts.shifting_scheduler(), vae, parts.qwen25_vl(tokenizer), tokenizer, _qwen_processor(tokenizer), transformer
    )


EDITORS: dict[str, Callable[[], Any]] = {
    "FluxKontextPipeline": flux_kontext,
    "Flux2KleinPipeline": flux2_klein,
    "Flux2KleinKVPipeline": flux2_klein_kv,
    "Flux2Pipeline": flux2,
    "QwenImageEditPipeline": qwen_image_edit,
    "QwenImageEditPlusPipeline": qwen_image_edit_plus,
    "LongCatImageEditPipeline": longcat_image_edit,
}
_NAMES = {"Flux2KleinPipeline": "Flux2KleinPipeline-distilled"}  # beside the one that is not, of the generators
KINDS = {
    _NAMES.get(name, name): lambda folder, name=name: save_editor(name, folder)
    for name in EDITORS
    if name != "Flux2Pipeline"
}


def _qwen_parts(**transformer: Any) -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    tokenizer = parts.qwen_tokenizer()
    return {
        "scheduler": parts.shifting_scheduler(),
        "vae": AutoencoderKLQwenImage(
            base_dim=2,
            z_dim=4,
            dim_mult=[1, 1, 1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": parts.qwen25_vl(tokenizer),
        "tokenizer": tokenizer,
        "processor": _qwen_processor(tokenizer),
        "transformer": QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            **transformer,
        ),
    }


def _qwen_processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLProcessor

    from microworld.training.vlm_model import build_processor

    built: Any = build_processor(tokenizer)
    return Qwen2VLProcessor(built.image_processor, tokenizer, built.video_processor, chat_template=built.chat_template)
