"""Build the micro VLM from scratch: plain transformers classes of Qwen2.5-VL at tiny sizes.

A 32-px image is 64 patches of 4 px and, merged two by two, 16 tokens of the language model; two images side by side
(64 x 32) are 32 tokens. The tokenizer is Qwen2's class with a vocabulary of the world's language: common words are
one token, and any other text is spelled with its bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2Tokenizer

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
REWARD_TOKEN = "<|VQ_reward|>"  # the verifier's: its last hidden state is what a Bradley-Terry head reads
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD, REWARD_TOKEN)

VOCABULARY_SIZE = 1536  # 256 bytes, merges, special tokens, and a few rows to spare
NUM_MERGED_TOKENS = 1500 - len(SPECIAL_TOKENS)  # with the 256 bytes
MAX_LENGTH = 1024  # tokens

PATCH_PX, MERGE = 4, 2
CELL_PX = PATCH_PX * MERGE  # the side of what one token of the language model sees
TEMPORAL_PATCH = 2  # an image is a video of two equal frames
MIN_PIXELS, MAX_PIXELS = 32 * 32, 64 * 32
PIXEL_MEAN = PIXEL_STD = 0.5

# Qwen2.5-VL's own, without its videos' and pictures' numbering.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class VlmShape:
    """Sizes of both towers. vLLM's CPU attention wants language-model heads of 32, 64, 96, 128... channels."""

    vision_layers: int = 5
    vision_width: int = 128
    vision_heads: int = 4
    vision_inner: int = 384
    layers: int = 5
    width: int = 192
    heads: int = 6
    kv_heads: int = 2
    inner: int = 576


def build_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Byte-level BPE over `texts`; the same texts give the same vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_MERGED_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return tokenizer_from_vocabulary(
        model["vocab"], [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    )


def tokenizer_from_vocabulary(vocabulary: dict[str, int], merges: list[str]) -> Qwen2Tokenizer:
    """Qwen2's class with the special tokens behind the words."""
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[tuple(m.split(" ")) for m in merges],  # pyright: ignore[reportArgumentType]
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in (IM_END, END_OF_TEXT)],
        model_max_length=MAX_LENGTH,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tokenizer_state(tokenizer: Qwen2Tokenizer) -> dict[str, object]:
    """Plain values from which `tokenizer_from_vocabulary` makes the same tokenizer: for a checkpoint."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return {"vocabulary": model["vocab"], "merges": [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]}


def build_vlm(tokenizer: Qwen2Tokenizer, shape: VlmShape | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """Random weights: matrices of standard deviation 1/sqrt(inputs), those that end a residual branch smaller."""
    from torch import nn
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shape = shape or VlmShape()
    token_id = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    head_dim = shape.width // shape.heads
    rows = head_dim // 2 * 3 // 8  # of the rotary frequencies: time, height, width as 2 : 3 : 3, like Qwen's
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": MAX_LENGTH,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_dim // 2 - 2 * rows, rows, rows],
            },
            "bos_token_id": token_id[END_OF_TEXT],
            "eos_token_id": token_id[IM_END],
            "pad_token_id": token_id[END_OF_TEXT],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_width,
            "intermediate_size": shape.vision_inner,
            "num_heads": shape.vision_heads,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "window_size": 2 * max(32, 64),  # wider than any image: one window, so patches keep their order
            "fullatt_block_indexes": list(range(shape.vision_layers)),
            "out_hidden_size": shape.width,
        },
        image_token_id=token_id[IMAGE_PAD],
        video_token_id=token_id[VIDEO_PAD],
        vision_start_token_id=token_id[VISION_START],
        vision_end_token_id=token_id[VISION_END],
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            ends_branch = name.endswith(("o_proj", "down_proj", "attn.proj"))
            depth = shape.vision_layers if ".visual." in name else shape.layers
            nn.init.normal_(module.weight, std=module.in_features**-0.5 / (2 * depth if ends_branch else 1) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=(module.weight[0].numel()) ** -0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=shape.width**-0.5)
    generation = model.generation_config
    assert generation is not None
    generation.eos_token_id = [token_id[IM_END], token_id[END_OF_TEXT]]  # pyright: ignore[reportAttributeAccessIssue]
    generation.pad_token_id = token_id[END_OF_TEXT]  # pyright: ignore[reportAttributeAccessIssue]
    generation.do_sample = False
    return model


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    settings = {
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**settings),
        chat_template=CHAT_TEMPLATE,
    )


def save_vlm(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: Path) -> None:
    """A bfloat16 copy of the model with its processor, as transformers and vLLM read it; `model` stays as it is."""
    import torch

    copy.deepcopy(model).to(dtype=torch.bfloat16).save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    processor.save_pretrained(folder)
