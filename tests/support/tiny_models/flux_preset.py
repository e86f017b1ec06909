"""Production's classes at tiny random sizes, saved as the folders that the flux preset's flags can name."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from inference.grounding.groundingdino_py_loading import (
    FixedLengthTokenizer,
    GroundingDinoArchitecture,
    build_grounding_dino,
)

WORDS = ("a", "photo", "of", "red", "green", "blue", "cat", "dog", "apple", "traffic", "light", "bench", "car", "and")
TINY_DINO = GroundingDinoArchitecture(
    short_px=64,
    long_px=96,
    swin_pretrain_px=32,
    swin_dim=8,
    swin_depths=(1, 1, 1, 1),
    swin_heads=(1, 1, 2, 2),
    swin_window=4,
    encoder_layers=1,
    decoder_layers=2,
    feedforward_dim=64,
    num_queries=20,
)


def save_tiny_bert(folder: Path) -> Path:
    """config.json and tokenizer of a one-layer BERT, whose special tokens have the ids of bert-base-uncased."""
    from transformers import BertConfig, BertTokenizerFast

    ids = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
    ids |= {word: 1100 + i for i, word in enumerate(WORDS)}
    ids |= {f"##{letter}": 1200 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    ids |= {letter: 1300 + i for i, letter in enumerate("bcdefghijklmnopqrstuvwxyz")}
    BertTokenizerFast(vocab=ids, do_lower_case=True, model_max_length=512).save_pretrained(folder)
    config = BertConfig(
        vocab_size=1400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    config.save_pretrained(folder)
    return folder


def save_tiny_grounding_dino(folder: Path, bert: Path, seed: int = 0) -> Path:
    """Random weights; the box head too, so that boxes differ from each other."""
    import torch
    from safetensors.torch import save_model
    from transformers import AutoTokenizer, BertConfig

    torch.manual_seed(seed)
    tokenizer = FixedLengthTokenizer(AutoTokenizer.from_pretrained(bert), 16)
    network = build_grounding_dino(TINY_DINO, BertConfig.from_pretrained(bert), tokenizer)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bbox_embed" in name and name.endswith("layers.2.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(TINY_DINO), indent=2) + "\n")
    save_model(network, str(folder / "model.safetensors"))
    return folder


def save_tiny_flux(folder: Path, seed: int = 0) -> Path:
    """A random `FluxPipeline` for pictures of 4 px and multiples, with FLUX.1-dev's kinds of parts."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    from microworld.training.flux_model import WIDTH, build_clip_text, build_t5, build_tokenizer

    torch.manual_seed(seed)
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
    vae = AutoencoderKL(
        down_block_types=cast(Any, ("DownEncoderBlock2D",) * 2),
        up_block_types=cast(Any, ("UpDecoderBlock2D",) * 2),
        block_out_channels=cast(Any, (8, 16)),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipeline = FluxPipeline(
        scheduler,
        vae,
        build_clip_text(),
        cast(Any, build_tokenizer(clip=True)),
        build_t5(),
        build_tokenizer(clip=False),
        transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_tiny_sam(folder: Path, seed: int = 0) -> Path:
    """A random SAM for inputs of 64 px."""
    import torch
    from safetensors.torch import save_file

    from inference.grounding.sam import SamArchitecture, build_sam

    torch.manual_seed(seed)
    architecture = SamArchitecture(
        image_px=64,
        encoder_dim=32,
        encoder_depth=2,
        encoder_heads=2,
        global_attention=(1,),
        window=2,
        prompt_dim=32,
        decoder_mlp_dim=64,
        decoder_heads=2,
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(asdict(architecture)))
    save_file(
        {name: value.contiguous() for name, value in build_sam(architecture).state_dict().items()},
        folder / "model.safetensors",
    )
    return folder


def flux_transformer():
    """Two double and three single blocks, so that blocks of a kind follow each other."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    ).eval()
