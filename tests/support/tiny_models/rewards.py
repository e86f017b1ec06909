"""HPSv3 and ImageReward with random weights, in the layouts they are published in: file names, names of tensors."""

import json
from pathlib import Path
from typing import Any

from tests.support.tiny_models.flux_preset import save_tiny_bert

HPS_SHAPE = {"layers": 2, "width": 32, "vision_layers": 2, "vision_width": 32}
SMALL = {"vision": 128, "text": 32, "inner": 64, "layers": 2, "text_heads": 2, "image_px": 32, "patch_px": 16}
FULL = {"vision": 1024, "text": 768, "inner": 3072, "layers": 12, "text_heads": 12, "image_px": 224, "patch_px": 16}
FULL |= {"vision_layers": 24, "vocabulary": 30524, "positions": 512, "scorer": (1024, 128, 64, 16, 1)}


def save_tiny_qwen2_vl(folder: Path, seed: int = 0) -> Path:
    """A random Qwen2-VL with the real one's patches of 14 px, and its processor."""
    import torch
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    from tests.support.tiny_vlm import tiny_tokenizer

    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer) + 20,
        "hidden_size": HPS_SHAPE["width"],
        "intermediate_size": 64,
        "num_hidden_layers": HPS_SHAPE["layers"],
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    vision = {"depth": HPS_SHAPE["vision_layers"], "embed_dim": HPS_SHAPE["vision_width"], "num_heads": 2}
    vision |= {"hidden_size": HPS_SHAPE["width"], "mlp_ratio": 2, "patch_size": 14}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    model: Any = Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    processor.save_pretrained(folder)
    return folder


def save_tiny_hpsv3(folder: Path, seed: int = 0) -> Path:
    """HPSv3.safetensors by transformers 4.45's names, as published, with a vocabulary cut to the tokenizer's and one
    reward token; its Qwen2-VL in `base`."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    base = save_tiny_qwen2_vl(folder / "base", seed + 1)
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(base)
    rows = len(AutoTokenizer.from_pretrained(base)) + 1
    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        cut = tensor[:rows] if name in ("lm_head.weight", "model.embed_tokens.weight") else tensor
        tensors[name] = (cut + 0.02 * torch.randn_like(cut)).contiguous()
    width = HPS_SHAPE["width"]
    for number, (inputs, outputs) in {0: (width, 24), 3: (24, 16), 5: (16, 2)}.items():
        tensors[f"rm_head.{number}.weight"] = torch.randn(outputs, inputs) * 0.3
        tensors[f"rm_head.{number}.bias"] = torch.randn(outputs) * 0.3
    save_file(tensors, folder / "HPSv3.safetensors")
    return folder


def image_reward_shapes(shape: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of every tensor of ImageReward.pt, by its name there."""
    v, t, inner, patch = shape["vision"], shape["text"], shape["inner"], shape["patch_px"]
    grid = shape["image_px"] // patch
    see, read = "blip.visual_encoder.", "blip.text_encoder."
    found: dict[str, tuple[int, ...]] = {
        f"{see}cls_token": (1, 1, v),
        f"{see}pos_embed": (1, grid * grid + 1, v),
        f"{see}patch_embed.proj.weight": (v, 3, patch, patch),
        f"{see}patch_embed.proj.bias": (v,),
        f"{see}norm.weight": (v,),
        f"{see}norm.bias": (v,),
    }
    for i in range(shape.get("vision_layers", shape["layers"])):
        block = f"{see}blocks.{i}."
        for name, sides in {
            "attn.qkv": (3 * v, v),
            "attn.proj": (v, v),
            "mlp.fc1": (4 * v, v),
            "mlp.fc2": (v, 4 * v),
        }.items():
            found |= {f"{block}{name}.weight": sides, f"{block}{name}.bias": sides[:1]}
        for name in ("norm1", "norm2"):
            found |= {f"{block}{name}.weight": (v,), f"{block}{name}.bias": (v,)}
    found |= {
        f"{read}embeddings.position_ids": (1, shape.get("positions", 64)),
        f"{read}embeddings.word_embeddings.weight": (shape.get("vocabulary", 1402), t),
        f"{read}embeddings.position_embeddings.weight": (shape.get("positions", 64), t),
        f"{read}embeddings.LayerNorm.weight": (t,),
        f"{read}embeddings.LayerNorm.bias": (t,),
    }
    for i in range(shape["layers"]):
        layer = f"{read}encoder.layer.{i}."
        for attention, width in (("attention", t), ("crossattention", v)):
            sides = {"self.query": (t, t), "self.key": (t, width), "self.value": (t, width), "output.dense": (t, t)}
            for name, (high, wide) in sides.items():
                found |= {f"{layer}{attention}.{name}.weight": (high, wide), f"{layer}{attention}.{name}.bias": (high,)}
            found |= {f"{layer}{attention}.output.LayerNorm.{kind}": (t,) for kind in ("weight", "bias")}
        for name, (high, wide) in {"intermediate.dense": (inner, t), "output.dense": (t, inner)}.items():
            found |= {f"{layer}{name}.weight": (high, wide), f"{layer}{name}.bias": (high,)}
        found |= {f"{layer}output.LayerNorm.{kind}": (t,) for kind in ("weight", "bias")}
    for name, width in (("vision_proj", v), ("text_proj", t)):
        found |= {f"blip.{name}.weight": (256, width), f"blip.{name}.bias": (256,)}
    before = t
    for number, width in zip((0, 2, 4, 6, 7), shape.get("scorer", (24, 16, 12, 8, 1)), strict=True):
        found |= {f"mlp.layers.{number}.weight": (width, before), f"mlp.layers.{number}.bias": (width,)}
        before = width
    return found


def med_config(shape: dict[str, Any]) -> dict[str, Any]:
    """The text encoder's med_config.json."""
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape["text"],
        "initializer_range": 0.02,
        "intermediate_size": shape["inner"],
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": shape.get("positions", 64),
        "model_type": "bert",
        "num_attention_heads": shape["text_heads"],
        "num_hidden_layers": shape["layers"],
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": shape.get("vocabulary", 1402),
        "encoder_width": 768,
        "add_cross_attention": True,
    }


def save_image_reward(folder: Path, shape: dict[str, Any], seed: int = 0) -> Path:
    """ImageReward.pt and med_config.json of a shape, random."""
    import torch

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, sides in image_reward_shapes(shape).items():
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(sides[1])[None]
        else:
            scale = sides[-1] ** -0.5 if len(sides) == 2 and "mlp.layers" in name else 0.1
            tensors[name] = torch.randn(sides) * scale + (1.0 if "orm" in name and name.endswith("weight") else 0.0)
    torch.save(tensors, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(med_config(shape), indent=2))
    return folder


def save_tiny_image_reward(folder: Path, seed: int = 0) -> Path:
    """A random ImageReward for images of 32 px; BERT's tokenizer in `bert`."""
    save_image_reward(folder, SMALL, seed)
    save_tiny_bert(folder / "bert")
    return folder


KINDS = {"qwen2-vl": save_tiny_qwen2_vl, "hpsv3": save_tiny_hpsv3, "imagereward": save_tiny_image_reward}
