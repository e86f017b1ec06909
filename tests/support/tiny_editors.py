# pyright: reportArgumentType=false
"""Editing pipelines of diffusers with random weights: an image and an instruction in, an image out.

Their real classes at tiny sizes, with the micro family's tokenizers. The classes of Qwen and LongCat bring every image
to about a megapixel, whatever its size, so their VAEs have few channels and many levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from inference.model_store import resolve_model

WIDTH = 32
QWEN_LAYERS, MISTRAL_LAYERS = 27, 30  # FLUX.2 reads hidden states of these layers, whatever the text encoder


def save_editor(name: str, folder: Path, seed: int = 0) -> Path:
    """name: a pipeline's class, one of `EDITORS`."""
    import torch

    torch.manual_seed(seed)
    pipeline = EDITORS[name]()
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)  # what starts at zero would keep texts and images out
    pipeline.save_pretrained(folder)
    return folder


def flux_kontext() -> Any:
    """For images of 4 px and multiples."""
    from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel

    from microworld.training.flux_model import WIDTH as TEXT_WIDTH
    from microworld.training.flux_model import build_clip_text, build_t5, build_tokenizer

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxKontextPipeline(
        _scheduler(),
        AutoencoderKL(**_vae((8, 16), 4), scaling_factor=1.0, shift_factor=0.0),
        build_clip_text(),
        build_tokenizer(clip=True),
        build_t5(),
        build_tokenizer(clip=False),
        transformer,
    )


def flux2_klein(is_distilled: bool = True) -> Any:
    """For images of 4 px and multiples, from 64 px a side on."""
    from diffusers import Flux2KleinPipeline

    return Flux2KleinPipeline(
        _scheduler(), _flux2_vae(), _qwen3(), _qwen_tokenizer(), _flux2_transformer(), is_distilled=is_distilled
    )


def flux2_klein_kv() -> Any:
    """The same components in the class that computes the shown image's keys and values once."""
    from diffusers import Flux2KleinKVPipeline

    return Flux2KleinKVPipeline(_scheduler(), _flux2_vae(), _qwen3(), _qwen_tokenizer(), _flux2_transformer())


def flux2() -> Any:
    """FLUX.2-dev's class, whose text encoder is Mistral's."""
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    from microworld.training.vlm_model import END_OF_TEXT, IM_END, IMAGE_PAD, VOCABULARY_SIZE

    tokenizer = _qwen_tokenizer()
    ids = tokenizer.get_vocab()
    text = {
        "model_type": "mistral",
        "vocab_size": VOCABULARY_SIZE,
        "num_hidden_layers": MISTRAL_LAYERS,
        "sliding_window": None,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[IM_END],
        "pad_token_id": ids[END_OF_TEXT],
        **_layer_sizes(),
    }
    vision = {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 30, "patch_size": 6, **_tower_sizes()}
    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=ids[IMAGE_PAD])
    )
    transformer = _flux2_transformer(guidance_embeds=True)
    return Flux2Pipeline(_scheduler(), _flux2_vae(), encoder, _pixtral_processor(tokenizer), transformer)


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
    from diffusers import AutoencoderKL, LongCatImageEditPipeline, LongCatImageTransformer2DModel

    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKL(**_vae((4, 4, 4, 8), 16), mid_block_add_attention=False, scaling_factor=1.0, shift_factor=0.0)
    tokenizer = _qwen_tokenizer()
    return LongCatImageEditPipeline(
        _scheduler(), vae, _qwen25_vl(tokenizer), tokenizer, _qwen_processor(tokenizer), transformer
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


def _scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def _vae(channels: tuple[int, ...], latent_channels: int) -> dict[str, Any]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": 1,
        "latent_channels": latent_channels,
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(**_vae((8, 16), 4))


def _flux2_transformer(guidance_embeds: bool = False) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def _qwen_parts(**transformer: Any) -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    tokenizer = _qwen_tokenizer()
    return {
        "scheduler": _scheduler(),
        "vae": AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 2, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True, True, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "text_encoder": _qwen25_vl(tokenizer),
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


def _layer_sizes() -> dict[str, int]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }


def _tower_sizes() -> dict[str, int]:
    return {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from microworld.training.vlm_model import VOCABULARY_SIZE

    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=VOCABULARY_SIZE, num_hidden_layers=QWEN_LAYERS, **cast(Any, _layer_sizes()))
    )


def _qwen25_vl(tokenizer: Any) -> Any:
    from microworld.training.vlm_model import VlmShape, build_vlm

    return build_vlm(
        tokenizer,
        VlmShape(
            vision_layers=1,
            vision_width=WIDTH,
            vision_heads=2,
            vision_inner=WIDTH,
            layers=1,
            width=WIDTH,
            heads=2,
            kv_heads=1,
            inner=WIDTH,
        ),
    )


def _qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer.from_pretrained(resolve_model("micro/vlm"))


def _qwen_processor(tokenizer: Any) -> Any:
    from transformers import Qwen2VLProcessor

    from microworld.training.vlm_model import build_processor

    built = build_processor(tokenizer)
    return Qwen2VLProcessor(built.image_processor, tokenizer, built.video_processor, chat_template=built.chat_template)


def _pixtral_processor(tokenizer: Any) -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    from microworld.training.vlm_model import CHAT_TEMPLATE, IMAGE_PAD, VISION_END, VISION_START

    return PixtralProcessor(
        PixtralImageProcessor(),
        tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_PAD,
        image_break_token=VISION_START,
        image_end_token=VISION_END,
    )
