"""A tiny Qwen2.5-VL as the hub has it, and verifiers of the published layout for it: files written by hand, under the
names of transformers 4.51, so that both that and this transformers read them (`published_verifier.py` does under 4.51).
Numbers are numpy's, which stay the same from version to version."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, LAYERS, HEADS, INNER = 32, 2, 2, 48
VISION_WIDTH, VISION_LAYERS, VISION_INNER = 16, 2, 24
PROMPTS = ("a photo of two red circles", "A lighthouse in a storm; très étrange")
SIZES = ((112, 112), (70, 131), (20, 33), (40, 300), (224, 200))
"""Height, width: as they are, to be rounded, too small, long, too large (of 20,000 pixels)."""


@dataclass(frozen=True)
class Case:
    """A verifier. excluded: from LoRA; norm: mean and deviation."""

    template: str = "\nRate it, 0 to 10.  \nPrompt: {text_prompt}\nOverall: <|VQ_reward|>\n"
    template_type: str = "detailed_special"
    tied: bool = True
    rows: int = 288
    rank: int = 4
    alpha: int = 10
    excluded: tuple[str, ...] = ("lm_head", "rm_head", "embed_tokens", "visual")
    lora: bool = True
    rslora: bool = False
    whole: bool = False
    output_dim: int = 1
    special: bool = True
    pooling: str = "special"
    norm: tuple[float, float] | None = None
    inside: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


BARE = {"template": "{text_prompt}", "template_type": "none", "special": False}
CASES = {
    "plain": Case(),
    "vision": Case(excluded=("lm_head", "rm_head", "embed_tokens"), rslora=True, tied=False, norm=(0.3, 1.7)),
    "embedding": Case(excluded=("rm_head", "visual"), inside=True),
    "grown": Case(rows=260),
    "last": Case(pooling="last", **BARE),
    "mean": Case(pooling="mean", **BARE),
    "whole": Case(whole=True),
    "whole_without_lora": Case(whole=True, lora=False),
    "without_lora": Case(lora=False, tied=False),
    "three": Case(output_dim=3, template="{text_prompt}: <|VQ_reward|> <|VQ_reward|> <|VQ_reward|>"),
}
MAX_PIXELS = 20000


def base_shapes(rows: int, tied: bool) -> dict[str, tuple[int, ...]]:
    """Of every weight, by its name in transformers 4.51."""
    shapes: dict[str, tuple[int, ...]] = {"visual.patch_embed.proj.weight": (VISION_WIDTH, 3, 2, 14, 14)}
    for i in range(VISION_LAYERS):
        start, v, inner = f"visual.blocks.{i}.", VISION_WIDTH, VISION_INNER
        shapes |= {f"{start}norm1.weight": (v,), f"{start}norm2.weight": (v,)}
        for name, (high, wide) in {"attn.qkv": (3 * v, v), "attn.proj": (v, v)}.items():
            shapes |= {f"{start}{name}.weight": (high, wide), f"{start}{name}.bias": (high,)}
        for name, (high, wide) in {"gate_proj": (inner, v), "up_proj": (inner, v), "down_proj": (v, inner)}.items():
            shapes |= {f"{start}mlp.{name}.weight": (high, wide), f"{start}mlp.{name}.bias": (high,)}
    merged = 4 * VISION_WIDTH
    shapes |= {"visual.merger.ln_q.weight": (VISION_WIDTH,)}
    for i, high in ((0, merged), (2, WIDTH)):
        shapes |= {f"visual.merger.mlp.{i}.weight": (high, merged), f"visual.merger.mlp.{i}.bias": (high,)}
    shapes |= {"model.embed_tokens.weight": (rows, WIDTH)}
    for i in range(LAYERS):
        start, key = f"model.layers.{i}.", WIDTH // HEADS
        for name, high in {"q_proj": WIDTH, "k_proj": key, "v_proj": key}.items():
            shapes |= {f"{start}self_attn.{name}.weight": (high, WIDTH), f"{start}self_attn.{name}.bias": (high,)}
        shapes |= {f"{start}self_attn.o_proj.weight": (WIDTH, WIDTH)}
        for name, shape in {
            "gate_proj": (INNER, WIDTH),
            "up_proj": (INNER, WIDTH),
            "down_proj": (WIDTH, INNER),
        }.items():
            shapes |= {f"{start}mlp.{name}.weight": shape}
        shapes |= {f"{start}input_layernorm.weight": (WIDTH,), f"{start}post_attention_layernorm.weight": (WIDTH,)}
    shapes |= {"model.norm.weight": (WIDTH,)}
    return shapes if tied else shapes | {"lm_head.weight": (rows, WIDTH)}


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """float32: matrices that keep a signal's size, norms about 1, biases about 0."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = rng.standard_normal(shape)
        if len(shape) > 1:
            drawn *= 1.0 if "embed" in name else float(np.prod(shape[1:])) ** -0.5
        else:
            drawn = 0.2 * drawn + ("bias" not in name)
        weights[name] = drawn.astype(np.float32)
    return weights


def write_base(folder: Path, rows: int, tied: bool) -> dict[str, np.ndarray]:
    """Model, tokenizer (bytes alone) and processor. Returns the weights."""
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    weights = random_weights(base_shapes(rows, tied), seed=rows)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {word: len(vocabulary) + i for i, word in enumerate(SPECIAL)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "additional_special_tokens": list(SPECIAL[1:]),
            "chat_template": CHAT_TEMPLATE,
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "preprocessor_config.json": {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        "config.json": base_config(ids, rows, tied),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return weights


def base_config(ids: dict[str, int], rows: int, tied: bool) -> dict[str, Any]:
    """Flat, as the hub's are."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vocab_size": rows,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 4096,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 70,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "vision_config": {
            "depth": VISION_LAYERS,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": VISION_INNER,
            "num_heads": 2,
            "in_chans": 3,
            "out_hidden_size": WIDTH,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
    }


def write_case(root: Path, case: Case) -> Path:
    """`root/base`, `root/verifier`, `root/template.txt`, `root/images`. Returns `root`."""
    import torch
    from safetensors.numpy import save_file

    base = write_base(root / "base", case.rows, case.tied)
    checkpoint = root / "verifier" / "checkpoint-120"
    checkpoint.mkdir(parents=True)
    (root / "verifier" / "checkpoint-40").mkdir()
    (root / "template.txt").write_text(case.template)
    others, adapter = checkpoint_tensors(case, base)
    if case.whole:
        # All of the state, LoRA included, as torch names it in the model.
        both = others | adapter
        others = {re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", name): value for name, value in both.items()}
        adapter = {}
    torch.save(
        {name: torch.from_numpy(value.copy()) for name, value in others.items()},
        checkpoint / ("model.pth" if case.whole else "non_lora_state_dict.pth"),
    )
    if adapter:
        save_file(adapter, checkpoint / "adapter_model.safetensors")
    (checkpoint / "training_args.bin").write_bytes(b"\x80\x04 no pickle at all")
    (checkpoint / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/of/somebody/else"}))
    settings = checkpoint_settings(case, root / "base")
    (checkpoint if case.inside else checkpoint.parent).joinpath("model_config.json").write_text(json.dumps(settings))
    write_images(root / "images")
    return root


def checkpoint_tensors(case: Case, base: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Other states, and the adapter's. Where LoRA is on a layer, peft names its weight `base_layer`."""
    rng = np.random.default_rng(7)
    rows = len(SPECIAL) + 256 + case.special if case.special else case.rows
    start = "base_model.model." if case.lora else ""
    adapter: dict[str, np.ndarray] = {}
    on = [name.removesuffix(".weight") for name, value in base.items() if case.lora and _takes_lora(case, name, value)]
    if case.lora and case.tied and "lm_head" not in case.excluded:
        on.append("lm_head")
    inner = {f"{layer}.{part}": f"{layer}.base_layer.{part}" for layer in on for part in ("weight", "bias")}
    trained = {name: value for name, value in base.items() if name.startswith("visual.")}
    trained = {n: v + 0.05 * rng.standard_normal(v.shape).astype(np.float32) for n, v in trained.items()}
    embedding = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    known = min(rows, case.rows)
    embedding[:known] = 0.1 * embedding[:known] + base["model.embed_tokens.weight"][:known]
    words = {"model.embed_tokens.weight": embedding}
    if case.tied or case.whole:
        words["lm_head.weight"] = embedding
    if case.whole:
        kept = {name: value for name, value in base.items() if name not in words}
        trained = kept | trained | words
    elif case.special:
        trained["model.embed_tokens.weight"] = embedding
        adapter |= {f"{start}{inner.get(n, n)}": v for n, v in words.items()} if case.lora else {}
    trained["rm_head.weight"] = (0.3 * rng.standard_normal((case.output_dim, WIDTH))).astype(np.float32)
    for layer in on:
        high, wide = embedding.shape if layer == "lm_head" else base[f"{layer}.weight"].shape
        high = rows if "embed_tokens" in layer else high
        if "embed_tokens" in layer:
            parts = {"lora_embedding_A": (case.rank, high), "lora_embedding_B": (wide, case.rank)}
        else:
            parts = {"lora_A.weight": (case.rank, wide), "lora_B.weight": (high, case.rank)}
        for part, shape in parts.items():
            adapter[f"{start}{layer}.{part}"] = (0.15 * rng.standard_normal(shape)).astype(np.float32)
    return {f"{start}{inner.get(name, name)}": value for name, value in trained.items()}, adapter


def _takes_lora(case: Case, name: str, value: np.ndarray) -> bool:
    return value.ndim == 2 and not any(word in name for word in case.excluded)


def checkpoint_settings(case: Case, base: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "data_config": {
            "meta_data": "a.json",
            "data_dir": "images",
            "max_frame_pixels": MAX_PIXELS,
            "eval_dim": "VQ",
            "prompt_template_type": case.template_type,
            "num_frames": None,
        },
        "training_args": {"learning_rate": 2e-6},
        "model_config": {
            "model_name_or_path": str(base),
            "output_dim": case.output_dim,
            "use_special_tokens": case.special,
            "reward_token": case.pooling,
            "torch_dtype": "bfloat16",
        },
    }
    if case.lora:
        settings["peft_lora_config"] = {
            "lora_enable": True,
            "lora_r": case.rank,
            "lora_alpha": case.alpha,
            "lora_dropout": 0.05,
            "lora_namespan_exclude": list(case.excluded),
            "use_rslora": case.rslora,
        }
    if case.norm:
        settings["inference_config"] = dict(zip(("VQ_mean", "VQ_std"), case.norm, strict=True))
    return settings


def write_images(folder: Path) -> list[Path]:
    """PNGs of several sizes and modes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(3), []
    for i, (high, wide) in enumerate(SIZES):
        blocks = rng.integers(0, 255, (-(-high // 7), -(-wide // 7), 3), np.uint8)
        image = Image.fromarray(np.kron(blocks, np.ones((7, 7, 1), np.uint8))[:high, :wide])
        if i == 1:
            image.putalpha(Image.fromarray(rng.integers(0, 255, (high, wide), np.uint8)))
        paths.append(folder / f"{i}.png")
        (image.convert("L") if i == 3 else image).save(paths[-1])
    return paths
