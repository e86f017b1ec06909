"""Stated sizes are those of the real architectures."""

from typing import Any, cast

import pytest

from pipelines import stated_figures


def test_stated_parameter_counts_are_those_of_the_architectures():
    import torch
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextConfig,
        CLIPTextModel,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        T5Config,
        T5EncoderModel,
    )

    from inference.grounding.sam import SamArchitecture, build_sam

    def clip(size):
        """PickScore's and HPSv2's ViT-H/14, or OpenAI's ViT-L/14."""
        text, vision, projection = {
            "h": ((1024, 4096, 24, 16), (1280, 5120, 32, 16), 1024),
            "l": ((768, 3072, 12, 12), (1024, 4096, 24, 16), 768),
        }[size]
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        return CLIPModel(
            CLIPConfig(
                text_config=dict(zip(names, text, strict=True)),
                vision_config={**dict(zip(names, vision, strict=True)), "patch_size": 14, "image_size": 224},
                projection_dim=projection,
            )
        )

    with torch.device("meta"):
        counted = {
            "FLUX_TRANSFORMER": FluxTransformer2DModel(guidance_embeds=True),
            "FLUX_T5": T5EncoderModel(
                T5Config(
                    vocab_size=32128,
                    d_model=4096,
                    d_ff=10240,
                    num_layers=24,
                    num_heads=64,
                    feed_forward_proj="gated-gelu",
                    is_encoder_decoder=False,
                )
            ),
            "FLUX_CLIP": CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
            ),
            "REWARDS": torch.nn.ModuleList([clip("h"), clip("h"), clip("l")]),
            "QWEN_7B": Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(
                    text_config={
                        "vocab_size": 152064,
                        "hidden_size": 3584,
                        "intermediate_size": 18944,
                        "num_hidden_layers": 28,
                        "num_attention_heads": 28,
                        "num_key_value_heads": 4,
                        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]},
                    },
                    vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
                    tie_word_embeddings=False,
                )
            ),
            "QWEN_3B": Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(
                    text_config={
                        "vocab_size": 151936,
                        "hidden_size": 2048,
                        "intermediate_size": 11008,
                        "num_hidden_layers": 36,
                        "num_attention_heads": 16,
                        "num_key_value_heads": 2,
                        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]},
                        "tie_word_embeddings": True,
                    },
                    vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048},
                    tie_word_embeddings=True,
                )
            ),
            "FLUX_VAE": AutoencoderKL(
                down_block_types=cast(Any, ("DownEncoderBlock2D",) * 4),
                up_block_types=cast(Any, ("UpDecoderBlock2D",) * 4),
                block_out_channels=cast(Any, (128, 256, 512, 512)),
                layers_per_block=2,
                latent_channels=16,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
            "SAM_VIT_H": build_sam(SamArchitecture()),
        }
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in counted.items()}
    assert counts == {name: getattr(stated_figures, name) for name in counts}


def test_stated_parameter_counts_of_vlms_are_those_of_their_classes():
    import torch
    from transformers import AutoModelForImageTextToText, Gemma3Config, InternVLConfig, Qwen3VLConfig

    def qwen3(width, inner, vision, deep):
        rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
        text = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 36, "num_attention_heads": 32}
        tied = width < 4096
        return Qwen3VLConfig(
            text_config={**text, "num_key_value_heads": 8, "rope_parameters": rope, "tie_word_embeddings": tied},
            vision_config={**vision, "out_hidden_size": width, "deepstack_visual_indexes": deep},
            tie_word_embeddings=tied,
        )

    qwen3_text = {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    internvl = {"model_type": "qwen3", **qwen3_text, "num_attention_heads": 32, "num_key_value_heads": 8}
    gemma = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "vocab_size": 262208}
    siglip = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    configs = {
        "Qwen/Qwen3-VL-4B-Instruct": qwen3(
            2560, 9728, {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}, [5, 11, 17]
        ),
        "Qwen/Qwen3-VL-8B-Instruct": qwen3(4096, 12288, {}, [8, 16, 24]),
        "OpenGVLab/InternVL3_5-8B-HF": InternVLConfig(
            text_config={**internvl, "head_dim": 128, "tie_word_embeddings": False}, tie_word_embeddings=False
        ),
        "google/gemma-3-4b-it": Gemma3Config(
            text_config=gemma,
            vision_config={**siglip, "image_size": 896, "patch_size": 14, "vision_use_head": False},
        ),
    }
    with torch.device("meta"):
        models = {name: AutoModelForImageTextToText.from_config(config) for name, config in configs.items()}
    counts = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert counts == {name: stated_figures.VLM_PARAMETERS[name] for name in counts}


@pytest.mark.slow
def test_the_stated_parameter_count_of_grounding_dino_is_that_of_the_package():
    """On the meta device too, but its import takes long."""
    import torch
    from torch.overrides import TorchFunctionMode
    from transformers import BertConfig

    from inference.grounding.groundingdino_py_loading import GroundingDinoArchitecture, build_grounding_dino

    class NumbersOnCpu(TorchFunctionMode):
        """The package reads its drop-path rates with `.item()`, which meta tensors do not have."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = dict(kwargs or {})
            if func is torch.linspace:
                kwargs["device"] = "cpu"
            return func(*args, **kwargs)

    class Tokenizer:
        def convert_tokens_to_ids(self, tokens):
            return [101, 102, 1012, 1029]

    with torch.device("meta"), NumbersOnCpu():
        network = build_grounding_dino(GroundingDinoArchitecture(), BertConfig(), Tokenizer())
    assert sum(p.numel() for p in network.parameters()) == stated_figures.GROUNDING_DINO_SWIN_T
    # The level embedding is made by the legacy constructor, which knows no meta device: 1,024 numbers.
    assert sum(p.numel() for p in network.parameters() if p.device.type != "meta") == 1024
