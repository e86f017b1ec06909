"""Boxes to masks with SAM: segment-anything's own classes, for its official checkpoints and for a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.sound_weights import check_numbers, sound_model
from schemas.configuration import execution_field, model_field
from schemas.errors import InputError, MissingWeightsError

if TYPE_CHECKING:
    import torch
    from segment_anything.modeling import Sam

OFFICIAL_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class SamArchitecture:
    """What segment-anything's `_build_sam` fixes or takes as arguments; the defaults are ViT-H's."""

    image_px: int = 1024
    patch_px: int = 16
    encoder_dim: int = 1280
    encoder_depth: int = 32
    encoder_heads: int = 16
    global_attention: tuple[int, ...] = (7, 15, 23, 31)
    window: int = 14
    prompt_dim: int = 256
    decoder_mlp_dim: int = 2048
    decoder_heads: int = 8


OFFICIAL = {
    "sam_vit_h": SamArchitecture(),
    "sam_vit_l": SamArchitecture(
        encoder_dim=1024, encoder_depth=24, encoder_heads=16, global_attention=(5, 11, 17, 23)
    ),
    "sam_vit_b": SamArchitecture(encoder_dim=768, encoder_depth=12, encoder_heads=12, global_attention=(2, 5, 8, 11)),
}


@dataclass(frozen=True)
class SamConfig:
    """Which SAM, and the fixed shapes it runs in (they, not the request, decide every forward pass's shape)."""

    model: str = model_field("sam_vit_h_4b8939.pth")
    """A file sam_vit_{h,l,b}*.pth, a folder as a trainer writes it, or a shipped model's name."""
    device: str = execution_field("cpu")
    """Where it computes: cpu, cuda, cuda:1."""
    image_batch: int = 16
    """Images through the encoder at once, padded."""
    box_batch: int = 64
    """Boxes through the mask decoder at once, padded."""
    multimask: bool = False
    """The mask of highest predicted IoU among three; a box is rarely ambiguous."""

    def open(self) -> SamSegmenter:
        """Load it. MissingWeightsError, InputError."""
        return SamSegmenter(self)


class SamSegmenter:
    """A `Segmenter`: one mask for each box."""

    def __init__(self, config: SamConfig) -> None:
        """Raises MissingWeightsError where `config.model` is not there, InputError where it is no SAM."""
        self.config = config
        self._sam = load_sam(config.model).to(config.device).eval().requires_grad_(False)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """images: uint8 (H, W, 3), any sizes; boxes: (n, 4) xyxy px for each. Returns bool (n, H, W) for each."""
        import torch

        if len(images) != len(boxes):
            raise ValueError(f"{len(images)} images with {len(boxes)} sets of boxes")
        masks = [np.zeros((len(b), *i.shape[:2]), bool) for i, b in zip(images, boxes, strict=True)]
        wanted = [i for i, found in enumerate(boxes) if len(found)]
        size = self.config.image_batch
        with torch.inference_mode():
            for start in range(0, len(wanted), size):
                chunk = wanted[start : start + size]
                self._segment_chunk([images[i] for i in chunk], [boxes[i] for i in chunk], [masks[i] for i in chunk])
        return masks

    def _segment_chunk(self, images: list[np.ndarray], boxes: list[np.ndarray], masks: list[np.ndarray]) -> None:
        """Fill `masks` (one array (n, H, W) an image, at most `image_batch` of them)."""
        import torch
        from torch.nn import functional as F

        sam, config = self._sam, self.config
        side = sam.image_encoder.img_size
        inputs = torch.zeros(config.image_batch, 3, side, side, device=config.device)
        inner_sizes, prompts, owners = [], [], []
        for i, (image, found) in enumerate(zip(images, boxes, strict=True)):
            height, width = image.shape[:2]
            scale = side / max(height, width)  # the longest side fills the input (segment-anything, ResizeLongestSide)
            inner = (int(height * scale + 0.5), int(width * scale + 0.5))
            pixels = torch.from_numpy(np.array(image)).to(config.device).permute(2, 0, 1)[None].float()
            # On antialias: segment-anything shrinks with pillow, which does; it changes nothing when enlarging.
            pixels = F.interpolate(pixels, inner, mode="bilinear", align_corners=False, antialias=True)
            inputs[i] = sam.preprocess(pixels)[0]
            inner_sizes.append(inner)
            ratio = np.array([inner[1] / width, inner[0] / height] * 2, np.float32)
            prompts.append(np.asarray(found, np.float32) * ratio)
            owners += [(i, k) for k in range(len(found))]
        embeddings = sam.image_encoder(inputs)
        all_prompts = torch.from_numpy(np.concatenate(prompts)).to(config.device)
        for start in range(0, len(owners), config.box_batch):
            some = owners[start : start + config.box_batch]
            padded = torch.zeros(config.box_batch, 4, device=config.device)
            padded[: len(some)] = all_prompts[start : start + len(some)]
            index = torch.tensor([i for i, _ in some] + [0] * (config.box_batch - len(some)), device=config.device)
            logits, quality = decode_boxes(sam, embeddings[index], padded)
            best = quality[:, 1:].argmax(1) + 1 if config.multimask else torch.zeros_like(index)
            chosen = logits[torch.arange(len(best), device=config.device), best][:, None]
            for row, (i, k) in enumerate(some):
                height, width = inner_sizes[i]
                mask = chosen[row : row + 1, :, :height, :width]
                mask = F.interpolate(mask, masks[i].shape[1:], mode="bilinear", align_corners=False)
                masks[i][k] = (mask[0, 0] > sam.mask_threshold).cpu().numpy()


def decode_boxes(sam: Sam, embeddings: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt encoder and mask decoder for n boxes that may lie in n different images.

    `MaskDecoder.predict_masks` takes one image with many prompts (it repeats the image); this is the same computation
    from the decoder's own parts, without the repeat.

    embeddings: (n, C, h, w), of the image of each box. boxes: (n, 4) xyxy in px of the model's input.
    Returns mask logits (n, 4, S, S) at the input's size S and predicted IoUs (n, 4); output 0 is the single mask.
    """
    import torch
    from torch.nn import functional as F

    decoder, prompt_encoder = sam.mask_decoder, sam.prompt_encoder
    sparse, dense = prompt_encoder(points=None, boxes=boxes, masks=None)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens[None].expand(len(boxes), -1, -1), sparse], 1)
    source = embeddings + dense
    positions = prompt_encoder.get_dense_pe().expand(len(boxes), -1, -1, -1)
    hidden, keys = decoder.transformer(source, positions, tokens)
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(source.shape))
    weights = [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("nkc,nchw->nkhw", torch.stack(weights, 1), upscaled)
    side = sam.image_encoder.img_size
    masks = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
    return masks, decoder.iou_prediction_head(hidden[:, 0])


def build_sam(architecture: SamArchitecture) -> Sam:
    """segment-anything's `_build_sam` with every size a parameter; weights are random."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from torch import nn

    a = architecture
    grid = a.image_px // a.patch_px
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=a.encoder_depth,
            embed_dim=a.encoder_dim,
            img_size=a.image_px,
            mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
            num_heads=a.encoder_heads,
            patch_size=a.patch_px,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=a.global_attention,
            window_size=a.window,
            out_chans=a.prompt_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=a.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(a.image_px, a.image_px),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=a.prompt_dim, mlp_dim=a.decoder_mlp_dim, num_heads=a.decoder_heads
            ),
            transformer_dim=a.prompt_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=a.prompt_dim,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def load_sam(model: str) -> Sam:
    """A folder as the micro trainer writes it, or one of the official checkpoints (`SamConfig.model`)."""
    import torch

    try:
        path = sound_model(model)
    except MissingWeightsError as error:
        if not Path(model).name.startswith(tuple(OFFICIAL)):
            raise
        raise MissingWeightsError(
            f"SAM's weights are not at {model}",
            expected=f"a checkpoint of segment-anything, e.g. {OFFICIAL_URL}sam_vit_h_4b8939.pth (2.6 GB, Apache-2.0)",
        ) from error
    architecture = _read_architecture(path)
    weights = _read_weights(path / "model.safetensors" if path.is_dir() else path)
    # The big models are built without initialising 600 M numbers that the file replaces at once.
    with torch.device("meta"):
        sam = build_sam(architecture)
    sam.to_empty(device="cpu")
    problems = sam.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        missing, unexpected = problems.missing_keys, problems.unexpected_keys
        example = [*missing, *unexpected][0]
        raise InputError(
            f"not the weights of this SAM: {len(missing)} missing, {len(unexpected)} unexpected, e.g. {example}",
            file=str(path),
        )
    # Not in the file (segment-anything registers them as not persistent), so `to_empty` left them undefined.
    sam.pixel_mean = torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    sam.pixel_std = torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    return sam


def _read_architecture(path: Path) -> SamArchitecture:
    if path.is_dir():
        config = path / "config.json"
        if not config.exists():
            raise MissingWeightsError("no config.json in this SAM folder", file=str(path))
        try:
            values: dict[str, Any] = json.loads(config.read_text())
            values["global_attention"] = tuple(values["global_attention"])
            return SamArchitecture(**values)
        except (ValueError, TypeError, KeyError) as error:
            names = ", ".join(f.name for f in fields(SamArchitecture))
            raise InputError(f"not a SAM configuration: {error}", file=str(config), expected=names) from error
    for name, architecture in OFFICIAL.items():
        if path.name.startswith(name):
            return architecture
    raise InputError(
        "the file name does not say which SAM this is", file=str(path), expected=f"{', '.join(OFFICIAL)}, then anything"
    )


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict; files that would have to be unpickled as code are refused."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise MissingWeightsError("SAM's weights are missing", file=str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            "this checkpoint holds more than weights and is refused (loading it could run code)",
            file=str(path),
            expected="a state dict of tensors, as segment-anything publishes it, or a .safetensors file",
        ) from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"unreadable weights: {error}", file=str(path)) from error
    if not isinstance(weights, dict) or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise InputError("not a state dict of tensors", file=str(path))
    check_numbers(weights, path)
    return weights
