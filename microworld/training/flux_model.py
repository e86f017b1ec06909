# pyright: reportArgumentType=false
# diffusers asks for its own tokenizer classes by name and takes any.
"""Build the micro FLUX from scratch: plain diffusers and transformers classes at tiny sizes.

An inner width of 192 (6 heads x 32), 2 double and 4 single blocks, 16 image tokens of 16 channels; the text side is
a 2-layer T5 encoder and a 1-layer CLIP text model, 128 wide, with word-level tokenizers of the world's vocabulary.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

PAD, EOS, UNK, BOS = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL_TOKENS = (PAD, EOS, UNK, BOS)
VOCABULARY_SIZE = 512  # room for words that are appended later
# FLUX has no text mask, so padding is seen: training and sampling pad a text to the shortest length that holds it.
TEXT_LENGTHS = (16, 32, 48)
CLIP_LENGTH = 64  # padding never reaches the pooled vector (causal attention), so shorter is the same
WIDTH = 128


def build_tokenizer(clip: bool) -> PreTrainedTokenizerFast:
    """Words, digits and punctuation marks, lower-cased; "[Reflexion]" is one token. CLIP's has a start token too."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from microworld.scenes.captions import VOCABULARY

    ids = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *VOCABULARY])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    words = Regex(r"\[reflexion\]|[a-z]+|[0-9]|[^\sa-z0-9]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}" if clip else f"$A {EOS}", special_tokens=[(EOS, ids[EOS]), (BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        bos_token=BOS,
        model_max_length=CLIP_LENGTH if clip else 128,
    )


def build_clip_text() -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=CLIP_LENGTH,
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            bos_token_id=SPECIAL_TOKENS.index(BOS),
            eos_token_id=SPECIAL_TOKENS.index(EOS),
        )
    )


def build_t5() -> T5EncoderModel:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY_SIZE,
            d_model=WIDTH,
            d_kv=32,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=SPECIAL_TOKENS.index(PAD),
            eos_token_id=SPECIAL_TOKENS.index(EOS),
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def build_transformer() -> FluxTransformer2DModel:
    """adaLN modulations and the output layer start at zero, other matrices Xavier (the usual DiT start)."""
    from diffusers import FluxTransformer2DModel
    from torch import nn

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            if ".norm" in name or name.startswith(("norm_out", "proj_out")):
                nn.init.zeros_(module.weight)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return transformer


def build_pipeline(
    vae: AutoencoderKL, clip: CLIPTextModel, t5: T5EncoderModel, transformer: FluxTransformer2DModel
) -> FluxPipeline:
    """The ordinary pipeline around the given modules (not copied)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=clip,
        tokenizer=build_tokenizer(clip=True),
        text_encoder_2=t5,
        tokenizer_2=build_tokenizer(clip=False),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


_LOCAL_FACTS = {"_name_or_path", "is_local", "local_files_only"}  # of the machine that saved it


def save_pipeline(pipeline: FluxPipeline, folder: Path) -> None:
    """bfloat16 copies of all modules as a diffusers folder; the modules themselves stay as they are."""
    import torch

    modules = {
        name: copy.deepcopy(module).to(torch.bfloat16) if isinstance(module, torch.nn.Module) else module
        for name, module in pipeline.components.items()
    }
    type(pipeline)(**modules).save_pretrained(folder)
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text())
        if isinstance(values, dict) and _LOCAL_FACTS & set(values):
            kept = {name: value for name, value in values.items() if name not in _LOCAL_FACTS}
            path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
