# pyright: reportArgumentType=false
"""diffusers' text-to-image pipelines with random weights: their real classes, each for pictures of 32 px and more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_models import parts
from tests.support.tiny_models.parts import WIDTH


def save_pipeline(name: str, folder: Path, seed: int = 0) -> Path:
    """name: a pipeline's class, one of `PIPELINES`."""
    import torch

    torch.manual_seed(seed)
    pipeline = PIPELINES[name]()
    fill_weights(pipeline)
    pipeline.save_pretrained(folder)
    return folder


def fill_weights(pipeline: Any) -> None:
    """Random matrices that neither shrink nor blow up what they multiply, so that texts and noise reach the image; also
    what starts at zero or is left empty."""
    import torch

    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    with torch.no_grad():
        for parameter in (parameter for model in models for parameter in model.parameters()):
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif not torch.isfinite(parameter).all():
                torch.nn.init.zeros_(parameter)


def flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    from microworld.training.flux_model import VOCABULARY_SIZE, build_tokenizer

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        parts.shifting_scheduler(),
        parts.image_vae(),
        parts.clip_text(projected=False),
        build_tokenizer(clip=True),
        parts.t5(VOCABULARY_SIZE),
        build_tokenizer(clip=False),
        transformer,
    )


def flux2_klein() -> Any:
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3ForCausalLM

    text_encoder = Qwen3ForCausalLM(parts.qwen3_config(parts.KLEIN_LAYERS))
    return Flux2KleinPipeline(
        parts.shifting_scheduler(),
        parts.flux2_vae(),
        text_encoder,
        parts.qwen_tokenizer(),
        parts.flux2_transformer(guidance_embeds=False),
    )


def flux2() -> Any:
    from diffusers import Flux2Pipeline

    tokenizer = parts.qwen_tokenizer()
    return Flux2Pipeline(
        parts.shifting_scheduler(),
        parts.flux2_vae(),
        parts.mistral3(tokenizer),
        parts.pixtral_processor(tokenizer),
        parts.flux2_transformer(guidance_embeds=True),
    )


def qwen_image() -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    tokenizer = parts.qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImagePipeline(
        parts.shifting_scheduler(), parts.qwen_vae(), parts.qwen25_vl(tokenizer), tokenizer, transformer
    )


def z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=WIDTH,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    return ZImagePipeline(
        parts.flow_scheduler(shift=3.0),
        parts.image_vae(),
        Qwen3Model(parts.qwen3_config(2)),
        parts.qwen_tokenizer(),
        transformer,
    )


def stable_diffusion_3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    from microworld.training.flux_model import VOCABULARY_SIZE, build_tokenizer

    transformer = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=WIDTH,
        joint_attention_dim=2 * WIDTH,  # CLIP's two side by side; T5's are as wide
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=64,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=parts.flow_scheduler(shift=3.0),
        vae=parts.image_vae(),
        text_encoder=parts.clip_text(projected=True),
        tokenizer=build_tokenizer(clip=True),
        text_encoder_2=parts.clip_text(projected=True),
        tokenizer_2=build_tokenizer(clip=True),
        text_encoder_3=parts.t5(VOCABULARY_SIZE, width=2 * WIDTH),
        tokenizer_3=build_tokenizer(clip=False),
    )


def sana() -> Any:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=32,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    tokenizer = parts.qwen_tokenizer()
    text_encoder = Gemma2Model(Gemma2Config(vocab_size=len(tokenizer), num_hidden_layers=1, **parts.layer_sizes()))
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, parts.flow_scheduler(shift=3.0))


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    from microworld.training.flux_model import build_tokenizer

    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=32,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
        norm_num_groups=4,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(
        vae=parts.image_vae(scaling_factor=0.13025, shift_factor=None),
        text_encoder=parts.clip_text(projected=False),
        text_encoder_2=parts.clip_text(projected=True),
        tokenizer=build_tokenizer(clip=True),
        tokenizer_2=build_tokenizer(clip=True),
        unet=unet,
        scheduler=scheduler,
    )


def hunyuan_image() -> Any:
    from diffusers import AutoencoderKLHunyuanImage, HunyuanImagePipeline, HunyuanImageTransformer2DModel
    from diffusers.guiders import AdaptiveProjectedMixGuidance
    from transformers import ByT5Tokenizer

    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(8, 8),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=64,
    )
    tokenizer = parts.qwen_tokenizer()
    return HunyuanImagePipeline(
        scheduler=parts.flow_scheduler(shift=7.0),
        vae=vae,
        text_encoder=parts.qwen25_vl(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=parts.t5(384),
        tokenizer_2=ByT5Tokenizer(),
        transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
        ocr_guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
    )


def krea2() -> Any:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    from microworld.training.vlm_model import VOCABULARY_SIZE

    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=WIDTH,
        timestep_embed_dim=8,
        text_hidden_dim=WIDTH,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=WIDTH,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    config = Qwen3VLConfig(
        text_config={"vocab_size": VOCABULARY_SIZE, "num_hidden_layers": 2, **parts.layer_sizes()},
        vision_config={"depth": 1, "num_heads": 2, "out_hidden_size": WIDTH, **parts.tower_sizes()},
    )
    return Krea2Pipeline(
        parts.shifting_scheduler(),
        parts.qwen_vae(),
        Qwen3VLModel(config),
        parts.qwen_tokenizer(),
        transformer,
        text_encoder_select_layers=(0, 1, 2),
    )


def ovis_image() -> Any:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel
    from transformers import Qwen3Model

    transformer = OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    return OvisImagePipeline(
        parts.shifting_scheduler(),
        parts.image_vae(),
        Qwen3Model(parts.qwen3_config(2)),
        parts.qwen_tokenizer(),
        transformer,
    )


def glm_image() -> Any:
    """Its image tokens stand for 32 px each, so its VAE has four levels."""
    from diffusers import GlmImagePipeline, GlmImageTransformer2DModel
    from transformers import ByT5Tokenizer, GlmImageConfig, GlmImageForConditionalGeneration

    tokenizer = parts.glm_tokenizer()
    config = GlmImageConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 1,
            "vision_vocab_size": 128,
            "pad_token_id": 0,
            "eos_token_id": len(tokenizer) - 1,  # no image token: as many are sampled as an image has
            "rope_parameters": {"mrope_section": (4, 2, 2), "rope_type": "default", "rope_theta": 10000.0},
            **parts.layer_sizes(),
        },
        vision_config={"depth": 1, "num_heads": 2, "image_size": 32, "patch_size": 8, **parts.tower_sizes()},
        vq_config={"embed_dim": WIDTH, "num_embeddings": 128, "latent_channels": WIDTH},
    )
    transformer = GlmImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=128,
    )
    return GlmImagePipeline(
        ByT5Tokenizer(),
        parts.glm_processor(tokenizer),
        parts.t5(384),
        GlmImageForConditionalGeneration(config),
        parts.image_vae((4, 8, 8, 8), latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer,
        parts.shifting_scheduler(),
    )


PIPELINES: dict[str, Callable[[], Any]] = {
    "FluxPipeline": flux,
    "Flux2KleinPipeline": flux2_klein,
    "Flux2Pipeline": flux2,
    "QwenImagePipeline": qwen_image,
    "ZImagePipeline": z_image,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "SanaPipeline": sana,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "HunyuanImagePipeline": hunyuan_image,
    "Krea2Pipeline": krea2,
    "OvisImagePipeline": ovis_image,
    "GlmImagePipeline": glm_image,
}
KINDS = {name: lambda folder, name=name: save_pipeline(name, folder) for name in PIPELINES}
