"""VLMs of other classes than the micro family's, with random weights, as folders that transformers opens by itself.

Their tokenizers differ in what first words depend on: "Yes" is one token, or several (byte-level), or begins with a
space (Metaspace, as LLaMA's and Gemma's do).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tiny_vlm import save_tiny_vlm, tiny_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\nTHINKING{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
SWITCH = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
"""Of templates that know how to switch the thinking off: without it, a model goes on with <think>."""
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
WORDS = ("▁Yes", "▁No", "Yes", "No", "▁yes", "▁no", "▁red", "▁star", "▁the", "▁image", "▁a", "ing", "ed", "▁Make")
IMAGE_MEAN: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def spaced_tokenizer(special: list[str], eos: str, prepends: bool, **named: str) -> Any:
    """Unigram over words that begin with "▁", and single letters. prepends: a text gets a space before it, as LLaMA's;
    Gemma's gets none. named: the tokenizer's own special tokens by attribute, such as boi_token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(i) for i in range(33, 127)]
    pieces = [("<unk>", 0.0), *((word, -2.0) for word in WORDS), ("▁", -4.0), ("\n", -4.0)]
    pieces += [(letter, -6.0) for letter in letters]
    tokenizer: Any = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    if prepends:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*special, *named.values())])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token=eos,
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )


def split_tokenizer(**named: str) -> Any:
    """Byte-level BPE without a merge: "Yes" is three tokens, "No" two. It has Qwen's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer: Any = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", *named.values())
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )


def text_sizes(vocabulary: int) -> dict[str, Any]:
    """Of a language model of two layers; heads of 32 channels, which vLLM's CPU attention takes."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 2048,
    }


def save(model: Any, processor: Any, folder: Path, eos: list[str], seed: int) -> Path:
    """With weights of a size at which answers differ, and the tokens at which an answer ends."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embedding" in name:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(eos)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen_processor(kind: Any, tokenizer: Any, template: str, patch_px: int) -> Any:
    """The processor of one of Qwen's VLMs: images of 32 x 32 pixels and up."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor

    settings: dict[str, Any] = {
        "patch_size": patch_px,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64},
        **IMAGE_MEAN,
    }
    video = Qwen3VLVideoProcessor if kind.__name__.startswith("Qwen3") else Qwen2VLVideoProcessor
    return kind(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=video(**settings),
        chat_template=template,
    )


def qwen_tokens(tokenizer: Any) -> dict[str, Any]:
    """The configuration's ids of Qwen's special tokens."""
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {field: tokenizer.convert_tokens_to_ids(token) for field, token in names.items()}


def save_tiny_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen3-VL, whose "Yes" is three tokens here, and whose template can switch thinking off."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    tokenizer = split_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**text_sizes(len(tokenizer)), "rope_parameters": rope, "tie_word_embeddings": True},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=True,
        **qwen_tokens(tokenizer),
    )
    template = CHATML.replace("IMAGE", QWEN_IMAGE).replace("THINKING", SWITCH)
    processor = qwen_processor(Qwen3VLProcessor, tokenizer, template, 8)
    return save(Qwen3VLForConditionalGeneration(config), processor, folder, ["<|im_end|>", "<|endoftext|>"], seed)


def save_tiny_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen2-VL, with the micro family's tokenizer."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer: Any = tiny_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    config = Qwen2VLConfig(
        text_config={**text_sizes(1500), "rope_parameters": rope, "tie_word_embeddings": True},
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 4, "hidden_size": 64},
        tie_word_embeddings=True,
        **qwen_tokens(tokenizer),
    )
    template = CHATML.replace("IMAGE", QWEN_IMAGE).replace("THINKING", "")
    processor = qwen_processor(Qwen2VLProcessor, tokenizer, template, 4)
    return save(Qwen2VLForConditionalGeneration(config), processor, folder, ["<|im_end|>", "<|endoftext|>"], seed)


def save_tiny_internvl(folder: Path, seed: int = 0) -> Path:
    """InternVL in transformers' own form ("-HF"): a Qwen2 behind another vision tower, images cut into tiles."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = split_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **text_sizes(len(tokenizer)), "tie_word_embeddings": True},
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": (32, 32),
            "patch_size": (8, 8),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    size: dict[str, Any] = {"size": {"height": 32, "width": 32}, **IMAGE_MEAN}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=True, max_patches=4, **size),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**size),
        image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n").replace("THINKING", ""),
    )
    return save(InternVLForConditionalGeneration(config), processor, folder, ["<|im_end|>"], seed)


def save_tiny_gemma3(folder: Path, seed: int = 0) -> Path:
    """Gemma 3: image tokens see each other, a template without a system role, and a text that begins with <bos>."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    special = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer = spaced_tokenizer(
        special,
        "<eos>",
        prepends=False,
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    ids: dict[str, Any] = {
        field: tokenizer.convert_tokens_to_ids(token)
        for field, token in (
            ("image_token_index", "<image_soft_token>"),
            ("boi_token_index", "<start_of_image>"),
            ("eoi_token_index", "<end_of_image>"),
        )
    }
    config = Gemma3Config(
        text_config={
            **text_sizes(len(tokenizer)),
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 32,
        },
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
        mm_tokens_per_image=4,
        **ids,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 32, "width": 32}, **IMAGE_MEAN),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA_TEMPLATE,
    )
    return save(Gemma3ForConditionalGeneration(config), processor, folder, ["<eos>", "<end_of_turn>"], seed)


def save_tiny_llava(folder: Path, seed: int = 0) -> Path:
    """LLaVA 1.5: CLIP before a Llama, a template without signs of its own, and an answer that begins with a space."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = spaced_tokenizer(["<image>"], "</s>", prepends=True)
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_sizes(len(tokenizer))},
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return save(LlavaForConditionalGeneration(config), processor, folder, ["</s>"], seed)


KINDS: dict[str, Callable[[Path], Path]] = {
    "qwen2.5-vl": save_tiny_vlm,
    "qwen3-vl": save_tiny_qwen3_vl,
    "qwen2-vl": save_tiny_qwen2_vl,
    "internvl": save_tiny_internvl,
    "gemma3": save_tiny_gemma3,
    "llava": save_tiny_llava,
}
"""By the name that a command gives: what saves such a folder."""
