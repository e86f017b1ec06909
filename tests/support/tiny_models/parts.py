# pyright: reportArgumentType=false
"""Components that several tiny pipelines have, with random weights and the micro family's tokenizers."""

from typing import Any, cast

WIDTH = 32
KLEIN_LAYERS, MISTRAL_LAYERS = 27, 30  # FLUX.2 reads hidden states of these layers, whatever the text encoder


def flow_scheduler(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def shifting_scheduler() -> Any:
    """With FLUX's shift by the size of the image."""
    return flow_scheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)


def vae_settings(channels: tuple[int, ...], latent_channels: int) -> dict[str, Any]:
    """Of an `AutoencoderKL` or `AutoencoderKLFlux2`, which makes an image 2 ** (levels - 1) times smaller."""
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


def image_vae(channels: tuple[int, ...] = (8, 16), latent_channels: int = 4, **settings: Any) -> Any:
    from diffusers import AutoencoderKL

    chosen = {"scaling_factor": 1.0, "shift_factor": 0.0, **settings}
    return AutoencoderKL(**vae_settings(channels, latent_channels), **chosen)


def qwen_vae(latent_channels: int = 4) -> Any:
    """Qwen-Image's, which makes an image 4 times smaller here."""
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=latent_channels,
        dim_mult=[1, 1, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * latent_channels,
        latents_std=[1.0] * latent_channels,
    )


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(**vae_settings((8, 16), 4))


def flux2_transformer(**settings: Any) -> Any:
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
        **settings,
    )


def layer_sizes() -> dict[str, Any]:
    """Of a small language model."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }


def tower_sizes() -> dict[str, Any]:
    """Of a small vision tower."""
    return {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}


def qwen_tokenizer(**more: Any) -> Any:
    """The micro VLM's: Qwen2's class with few words."""
    from transformers import Qwen2Tokenizer

    from inference.model_store import resolve_model

    return Qwen2Tokenizer.from_pretrained(resolve_model("micro/vlm"), **more)


def qwen3_config(num_layers: int) -> Any:
    from transformers import Qwen3Config

    from microworld.training.vlm_model import VOCABULARY_SIZE

    return Qwen3Config(vocab_size=VOCABULARY_SIZE, num_hidden_layers=num_layers, **cast(Any, layer_sizes()))


def qwen25_vl(tokenizer: Any) -> Any:
    from microworld.training.vlm_model import VlmShape, build_vlm

    shape = VlmShape(
        vision_layers=1,
        vision_width=WIDTH,
        vision_heads=2,
        vision_inner=WIDTH,
        layers=2,
        width=WIDTH,
        heads=2,
        kv_heads=1,
        inner=WIDTH,
    )
    return build_vlm(tokenizer, shape)


def mistral3(tokenizer: Any) -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    from microworld.training.vlm_model import END_OF_TEXT, IM_END, IMAGE_PAD, VOCABULARY_SIZE

    ids = tokenizer.get_vocab()
    text = {
        "model_type": "mistral",
        "vocab_size": VOCABULARY_SIZE,
        "num_hidden_layers": MISTRAL_LAYERS,
        "sliding_window": None,
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[IM_END],
        "pad_token_id": ids[END_OF_TEXT],
        **layer_sizes(),
    }
    vision = {"model_type": "pixtral", "num_hidden_layers": 1, "image_size": 30, "patch_size": 6, **tower_sizes()}
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=ids[IMAGE_PAD])
    return Mistral3ForConditionalGeneration(config)


def pixtral_processor(tokenizer: Any) -> Any:
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


def clip_text(projected: bool) -> Any:
    """CLIP's text encoder of `WIDTH` channels, for the micro FLUX's words."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from microworld.training.flux_model import BOS, CLIP_LENGTH, EOS, PAD, SPECIAL_TOKENS, VOCABULARY_SIZE

    config = CLIPTextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        pad_token_id=SPECIAL_TOKENS.index(PAD),
        bos_token_id=SPECIAL_TOKENS.index(BOS),
        eos_token_id=SPECIAL_TOKENS.index(EOS),
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(vocabulary_size: int, width: int = WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary_size,
            d_model=width,
            d_kv=16,
            d_ff=WIDTH,
            num_layers=1,
            num_heads=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def glm_tokenizer() -> Any:
    """The micro VLM's words, with the tokens by which GLM-Image says sizes."""
    extra = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    return qwen_tokenizer(bos_token="<|dit_token_16384|>", extra_special_tokens=extra)


def glm_processor(tokenizer: Any) -> Any:
    from transformers import GlmImageImageProcessor, GlmImageProcessor

    from microworld.training.vlm_model import CHAT_TEMPLATE

    return GlmImageProcessor(GlmImageImageProcessor(), tokenizer, chat_template=CHAT_TEMPLATE)
