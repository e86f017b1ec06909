"""Detectors and segmenters of transformers' classes with random weights."""

import json
from pathlib import Path
from typing import Any

from tests.support.tiny_models.flux_preset import save_tiny_bert

SIDE = 64  # of what a segmenter looks at


def save_tiny_mm_grounding_dino(folder: Path, seed: int = 0) -> Path:
    """Random weights; the box heads too, so that boxes differ from each other."""
    import torch
    from transformers import (
        BertConfig,
        GroundingDinoImageProcessor,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
        SwinConfig,
    )

    torch.manual_seed(seed)
    save_tiny_bert(folder)
    text = BertConfig.from_pretrained(folder)
    backbone = SwinConfig(
        image_size=SIDE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue]
    )
    config = MMGroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_feature_levels=4,
        max_text_len=32,
    )
    model: Any = MMGroundingDinoForObjectDetection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bbox_embed" in name and name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 96}).save_pretrained(folder)
    return folder


def _sam2_vision() -> Any:
    from transformers import Sam2HieraDetConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )
    return Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        fpn_hidden_size=32,
    )


DECODER: dict[str, Any] = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def save_tiny_sam2(folder: Path, seed: int = 0) -> Path:
    """A random SAM 2 for inputs of 64 px."""
    import torch
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model

    torch.manual_seed(seed)
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16}
    config = Sam2Config(vision_config=_sam2_vision(), prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    _save_noisy(Sam2Model(config), folder)
    size = {"height": SIDE, "width": SIDE}
    Sam2ImageProcessor(size=size, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_sam2_video(folder: Path, seed: int = 0) -> Path:
    """The same in the layout of the published folders: weights of the video model, memory and all."""
    import torch
    from transformers import Sam2ImageProcessor, Sam2VideoConfig, Sam2VideoMaskDecoderConfig, Sam2VideoModel

    torch.manual_seed(seed)
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16}
    config = Sam2VideoConfig(
        vision_config=_sam2_vision(),
        prompt_encoder_config=prompts,
        mask_decoder_config=Sam2VideoMaskDecoderConfig(**DECODER),
        image_size=SIDE,
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=16,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
        mask_downsampler_embed_dim=32,
    )
    _save_noisy(Sam2VideoModel(config), folder)
    size = {"height": SIDE, "width": SIDE}
    Sam2ImageProcessor(size=size, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_sam3(folder: Path, seed: int = 0) -> Path:
    """A random SAM 3 (the part that takes boxes) for inputs of 56 px."""
    import torch
    from transformers import Sam3ImageProcessor, Sam3TrackerConfig, Sam3TrackerModel, Sam3VisionConfig

    torch.manual_seed(seed)
    side = 56  # 4 patches of 14
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side,
        "pretrain_image_size": side // 2,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    sizes = [[16, 16], [8, 8], [4, 4]]
    vision = Sam3VisionConfig(backbone_config=backbone, fpn_hidden_size=32, backbone_feature_sizes=sizes)
    config = Sam3TrackerConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": 14},
        mask_decoder_config=DECODER,
    )
    _save_noisy(Sam3TrackerModel(config), folder, std=0.3)
    size = {"height": side, "width": side}
    Sam3ImageProcessor(size=size, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_tiny_sam3_video(folder: Path, seed: int = 0) -> Path:
    """The same in the layout of the published folder: weights of the video model, whose detector they share the image
    encoder with."""
    from safetensors.torch import save_file
    from transformers import Sam3TrackerModel

    model: Any = Sam3TrackerModel.from_pretrained(save_tiny_sam3(folder, seed))
    tensors = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.removeprefix("vision_encoder.").partition(".")
        there = {"backbone": f"detector_model.vision_encoder.backbone.{rest}", "neck": f"tracker_neck.{rest}"}
        tensors[there[part] if name.startswith("vision_encoder.") else f"tracker_model.{name}"] = tensor
    first = next(iter(tensors.values()))
    others = ("detector_model.detr_encoder.layers.0.weight", "tracker_model.memory_encoder.projection.weight")
    save_file(tensors | {name: first.clone() for name in others}, folder / "model.safetensors", {"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"]}
    whole["tracker_config"] = said | {"model_type": "sam3_tracker_video"}
    (folder / "config.json").write_text(json.dumps(whole | {"detector_config": {"model_type": "sam3"}}))
    return folder


def _save_noisy(model: Any, folder: Path, std: float = 0.1) -> None:
    """Initial weights of some classes are zeros or nearly so; with noise, masks have both sides of the threshold."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * std)
    model.save_pretrained(folder)


KINDS = {
    "mm-grounding-dino": save_tiny_mm_grounding_dino,
    "sam2": save_tiny_sam2,
    "sam2-video": save_tiny_sam2_video,
    "sam3": save_tiny_sam3,
    "sam3-video": save_tiny_sam3_video,
}
