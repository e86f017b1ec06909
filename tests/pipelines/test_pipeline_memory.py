"""What `plan` says of pipelines of diffusers: from a folder's files, from stated sizes, or that nobody knows."""

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from inference.generator import GeneratorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from pipelines.model_costs import generator_costs
from pipelines.pipeline_memory import CLIP_G, CLIP_L, STATED_SIZES, diffusers_memory, parameters_in, pipeline_size
from pipelines.placement import Cluster, StageEstimate, place
from pipelines.stated_figures import GIB, GPUS
from schemas.errors import InputError
from tests.support.tiny_models.text_to_image import save_pipeline


def test_a_folder_is_as_large_as_the_models_in_it(tmp_path):
    from diffusers import DiffusionPipeline

    folder = save_pipeline("StableDiffusionXLPipeline", tmp_path / "xl")
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(unet.read_bytes())  # another form of it
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    counted = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in pipeline.components.items()
        if hasattr(part, "parameters")
    }
    found = pipeline_size(str(folder))
    assert found is not None
    size, source = found
    assert source == "derived from its folder"
    assert (size.denoiser, size.others) == (counted["unet"], counted["vae"])
    assert size.text == counted["text_encoder"] + counted["text_encoder_2"]


def test_shards_count_once_and_by_their_index(tmp_path):
    import torch
    from safetensors.torch import save_file

    for name, rows in (("model-00001-of-00002", 3), ("model-00002-of-00002", 4), ("model-left-over", 5)):
        save_file({name: torch.zeros(rows, 2)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {str(i): f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert parameters_in(tmp_path) == 14
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="model-00001"):
        parameters_in(tmp_path)


def test_quantised_and_offloaded_models_take_less():
    plain = DiffusersGeneratorConfig("Qwen/Qwen-Image")
    size = STATED_SIZES["Qwen/Qwen-Image"]
    whole, source = diffusers_memory(plain)
    assert whole is not None
    assert whole == pytest.approx(2 * (size.denoiser + size.text + size.others) / GIB, rel=0.12)
    assert source.startswith("stated sizes: 53.7 weights (bfloat16")
    changes = [{"quantization": "fp8"}, {"quantization": "int8"}, {"quantization": "int4"}, {"offload": "model"}]
    less = [diffusers_memory(replace(plain, **cast(Any, one)))[0] or 0.0 for one in changes]
    assert whole > less[0] > less[1] > less[2]
    assert less[3] == pytest.approx(whole - 2 * (size.text + size.others) / GIB)


def test_what_nobody_knows_is_said_to_be_unknown():
    costs = generator_costs(
        GeneratorConfig("diffusers", diffusers=DiffusersGeneratorConfig("else/where")), GPUS["h100"]
    )
    assert (costs.seconds, costs.memory_gib) == (None, None)
    assert costs.source.startswith("unknown: run a pilot")
    known = GeneratorConfig("diffusers", diffusers=DiffusersGeneratorConfig("Qwen/Qwen-Image", true_cfg_scale=1.0))
    unguided, guided = (generator_costs(one, GPUS["h100"]) for one in (known, _guided(known)))
    assert unguided.source.startswith("50 passes an image (50 steps); derived: ")
    assert guided.source.startswith("100 passes an image (50 steps); derived: ")
    assert (guided.seconds or 0.0) > 1.5 * (unguided.seconds or 0.0) > 0
    with pytest.raises(InputError, match="no model is named"):
        generator_costs(GeneratorConfig("diffusers", diffusers=DiffusersGeneratorConfig()), GPUS["h100"])


def test_a_model_that_fits_no_gpu_is_refused_though_nobody_knows_how_long_it_takes():
    gib, source = diffusers_memory(DiffusersGeneratorConfig("Qwen/Qwen-Image"))
    drawing = StageEstimate("generate_candidates", "images", 8, None, None, "unknown", gib, source)
    with pytest.raises(InputError, match=r"generate_candidates takes 59\.\d GiB, a rtx4090 has 23\.6"):
        place([drawing], Cluster(gpu_type="rtx4090"))


def _guided(generator: GeneratorConfig) -> GeneratorConfig:
    assert generator.diffusers is not None
    return replace(generator, diffusers=replace(generator.diffusers, true_cfg_scale=None))


@pytest.mark.slow
def test_stated_sizes_are_those_of_the_architectures():
    """Built without weights, by the configurations that the models' files carry."""
    import torch
    from diffusers import (
        AutoencoderDC,
        AutoencoderKL,
        AutoencoderKLFlux2,
        AutoencoderKLQwenImage,
        Flux2Transformer2DModel,
        QwenImageTransformer2DModel,
        SanaTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        ZImageTransformer2DModel,
    )
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        Gemma2Config,
        Gemma2Model,
        Qwen3Config,
        Qwen3Model,
    )

    def vae(**settings):
        levels: Any = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        return AutoencoderKL(
            block_out_channels=cast(Any, (128, 256, 512, 512)), layers_per_block=2, **levels, **settings
        )

    def clip(hidden, inner, layers, heads):
        sizes: Any = {"hidden_size": hidden, "intermediate_size": inner, "projection_dim": hidden}
        config = CLIPTextConfig(num_hidden_layers=layers, num_attention_heads=heads, **sizes)
        return CLIPTextModelWithProjection(config)

    def dc_ae():
        channels, blocks = (128, 256, 512, 512, 1024, 1024), ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
        scales = ((), (), (), (5,), (5,), (5,))
        return AutoencoderDC(
            latent_channels=32,
            encoder_block_types=cast(Any, blocks),
            decoder_block_types=cast(Any, blocks),
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
            decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
            encoder_qkv_multiscales=cast(Any, scales),
            decoder_qkv_multiscales=cast(Any, scales),
            upsample_block_type="interpolate",
            downsample_block_type="conv",
        )

    def sd35():
        return SD3Transformer2DModel(
            sample_size=128,
            in_channels=16,
            out_channels=16,
            num_layers=38,
            attention_head_dim=64,
            num_attention_heads=38,
            joint_attention_dim=4096,
            caption_projection_dim=2432,
            pooled_projection_dim=2048,
            pos_embed_max_size=192,
            qk_norm="rms_norm",
        )

    def unet():
        return UNet2DConditionModel(
            down_block_types=cast(Any, ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")),
            up_block_types=cast(Any, ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")),
            block_out_channels=cast(Any, (320, 640, 1280)),
            cross_attention_dim=2048,
            transformer_layers_per_block=cast(Any, (1, 2, 10)),
            attention_head_dim=cast(Any, (5, 10, 20)),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )

    def klein():
        return Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        )

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    qwen3: Any = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
    gemma2: Any = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}
    with torch.device("meta"):
        qwen3_4b = count(Qwen3Model(Qwen3Config(vocab_size=151936, num_key_value_heads=8, head_dim=128, **qwen3)))
        gemma = count(Gemma2Model(Gemma2Config(vocab_size=256000, num_key_value_heads=4, head_dim=256, **gemma2)))
        clip_g = count(clip(1280, 5120, 32, 20))
        denoisers = {
            "Qwen/Qwen-Image": QwenImageTransformer2DModel(),
            "black-forest-labs/FLUX.2-klein-4B": klein(),
            "Tongyi-MAI/Z-Image-Turbo": ZImageTransformer2DModel(),
            "stabilityai/stable-diffusion-3.5-large": sd35(),
            "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": SanaTransformer2DModel(num_layers=20),
            "stabilityai/stable-diffusion-xl-base-1.0": unet(),
        }
        vaes = {
            "Qwen/Qwen-Image": AutoencoderKLQwenImage(),
            "black-forest-labs/FLUX.2-klein-4B": AutoencoderKLFlux2(),
            "Tongyi-MAI/Z-Image-Turbo": vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
            "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": dc_ae(),
            "stabilityai/stable-diffusion-xl-base-1.0": vae(latent_channels=4),
        }
    assert {name: count(one) for name, one in denoisers.items()} == {
        name: STATED_SIZES[name].denoiser for name in denoisers
    }
    assert {name: count(one) for name, one in vaes.items()} == {name: STATED_SIZES[name].others for name in vaes}
    assert STATED_SIZES["black-forest-labs/FLUX.2-klein-4B"].text == qwen3_4b
    assert STATED_SIZES["Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"].text == gemma
    assert (count(clip(768, 3072, 12, 12)), clip_g) == (CLIP_L, CLIP_G)
