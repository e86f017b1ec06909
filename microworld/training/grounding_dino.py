"""Train the micro GroundingDINO: transformers' architecture, a few million parameters, on rendered scenes.

The text of an image names a random subset of the world's shapes, in random order, present or not, and now and then a
word the model does not know; only objects whose class is named are to be found. So the model learns to look for what
it is asked for, and not to answer with something else.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microworld.training.grounding_data import SHAPE_NAMES, AugmentationConfig, GroundingBatch, make_batch
from microworld.training.training import Training
from microworld.training.training_loop import MicroTrainingConfig, autocast, export_folder, prepare_process

if TYPE_CHECKING:
    import torch
    from transformers import BertTokenizerFast, GroundingDinoForObjectDetection

# transformers' GroundingDino finds the borders of phrases by BERT's own ids of these tokens.
PAD_ID, UNK_ID, CLS_ID, SEP_ID, DOT_ID, QUESTION_ID = 0, 100, 101, 102, 1012, 1029
FIRST_WORD_ID = 103
TEXT_LENGTH = 20  # [CLS], eight words with a dot each, [SEP], and some padding


@dataclass(frozen=True)
class GroundingDinoRecipe:
    """Sizes and hyperparameters."""

    input_px: int = 64  # a 32-px image is doubled: the backbone's patches are 4 px
    hidden: int = 128
    swin_dim: int = 48
    swin_depths: tuple[int, ...] = (2, 2, 2)
    encoder_layers: int = 2
    decoder_layers: int = 2
    num_queries: int = 20
    batch_size: int = 32
    learning_rate: float = 6e-4
    weight_decay: float = 1e-4
    ema_decay: float = 0.995
    dense_weight: float = 1.0
    unknown_word_share: float = 0.1
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


def build_tokenizer() -> BertTokenizerFast:
    """The world's class words; every other id up to 1029 is an unused token, as in BERT's own vocabulary."""
    from transformers import BertTokenizerFast

    vocab = {f"[unused{i}]": i for i in range(QUESTION_ID + 1)}
    taken = {PAD_ID: "[PAD]", UNK_ID: "[UNK]", CLS_ID: "[CLS]", SEP_ID: "[SEP]", DOT_ID: ".", QUESTION_ID: "?"}
    taken |= {FIRST_WORD_ID + i: word for i, word in enumerate((*SHAPE_NAMES, "[MASK]"))}
    vocab = {taken.get(i, word): i for word, i in vocab.items()}
    return BertTokenizerFast(vocab=vocab, do_lower_case=True, model_max_length=TEXT_LENGTH)


def build_model(recipe: GroundingDinoRecipe) -> GroundingDinoForObjectDetection:
    """A randomly initialised tiny model."""
    from torch import nn
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(
        image_size=recipe.input_px,
        patch_size=4,
        embed_dim=recipe.swin_dim,
        depths=list(recipe.swin_depths),
        num_heads=[recipe.swin_dim * 2**i // 16 for i in range(len(recipe.swin_depths))],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage2", "stage3"],  # pyright: ignore[reportCallIssue]
    )
    text = BertConfig(
        vocab_size=QUESTION_ID + 1,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=TEXT_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=recipe.hidden,
        num_queries=recipe.num_queries,
        encoder_layers=recipe.encoder_layers,
        decoder_layers=recipe.decoder_layers,
        encoder_ffn_dim=2 * recipe.hidden,
        decoder_ffn_dim=2 * recipe.hidden,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_feature_levels=3,
        max_text_len=TEXT_LENGTH,
        dropout=0.0,
        fusion_droppath=0.0,
        auxiliary_loss=True,
    )
    model = GroundingDinoForObjectDetection(config)
    # The published initialisation (std .02) is for wide layers that start from pretrained weights.
    for name, module in model.named_modules():
        kept = ("sampling_offsets", "attention_weights", "bbox_embed", "relative_position")
        if isinstance(module, nn.Linear) and not any(k in name for k in kept):
            nn.init.xavier_uniform_(module.weight)
    layers: Any = model.model.encoder.layers
    for layer in layers:
        # Without this, products of two normalised vectors of this width start as logits of +-11.
        nn.init.constant_(layer.text_enhancer_layer.layer_norm_after.weight, 0.3)
    return model


def build_image_processor(recipe: GroundingDinoRecipe):
    """Doubles the image, without padding, and normalises it as ImageNet models do."""
    from transformers import GroundingDinoImageProcessor

    side = recipe.input_px
    return GroundingDinoImageProcessor(size={"height": side, "width": side}, do_pad=False)


def to_pixel_values(images: np.ndarray, input_px: int) -> torch.Tensor:
    """What the image processor makes of uint8 (B, H, W, 3): float32 (B, 3, input_px, input_px)."""
    import torch
    from torch.nn import functional as F

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, (input_px, input_px), mode="bilinear", align_corners=False)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
    return (pixels - mean) / std


def draw_texts(rng: np.random.Generator, batch: GroundingBatch, unknown_share: float) -> list[tuple[str, ...]]:
    """The classes each image is asked for. "" stands for a word that is not in the vocabulary."""
    texts = []
    for present in batch.shapes:
        here = [s for s in dict.fromkeys(present) if s is not None and rng.random() < 0.85]
        absent = [s for s in SHAPE_NAMES if s not in present]
        rng.shuffle(absent)
        words = here + absent[: rng.integers(0 if here else 1, 5)]
        if rng.random() < unknown_share:
            words = [*words[: len(SHAPE_NAMES) - 1], ""]
        rng.shuffle(words)
        texts.append(tuple(words))
    return texts


def encode_texts(texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Token ids int64 (B, TEXT_LENGTH): one token and a dot for each word."""
    import torch

    ids = torch.zeros(len(texts), TEXT_LENGTH, dtype=torch.long)
    for row, words in zip(ids, texts, strict=True):
        tokens = [CLS_ID]
        for word in words:
            tokens += [FIRST_WORD_ID + SHAPE_NAMES.index(word) if word else UNK_ID, DOT_ID]
        tokens.append(SEP_ID)
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def make_labels(batch: GroundingBatch, texts: Sequence[Sequence[str]]) -> list[dict[str, torch.Tensor]]:
    """transformers' targets: index of the class in the text, boxes (cx, cy, w, h) as shares of the image."""
    import torch

    side = batch.images.shape[1]
    labels = []
    for shapes, boxes, words in zip(batch.shapes, batch.boxes, texts, strict=True):
        wanted = [k for k, shape in enumerate(shapes) if shape in words]
        xyxy = torch.from_numpy(boxes[wanted]).view(-1, 4) / side
        cxcywh = torch.cat([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], 1)
        classes = torch.tensor([words.index(shapes[k]) for k in wanted], dtype=torch.long)
        labels.append({"class_labels": classes, "boxes": cxcywh})
    return labels


def decoder_loss(logits, labels, device, pred_boxes, config, label_maps, text_mask, **outputs: Any):
    """transformers' own loss of the decoder's layers, for texts that differ within a batch.

    Two things in transformers 5.19 keep `GroundingDinoForObjectDetectionLoss` from being used as it is: its targets
    for image i are read from a wrong text's label map where i > 1 (the offset is not cumulative), and the loss of the
    two-stage proposals has no gradient (`dense_loss` takes its place).
    """
    import torch
    from transformers.loss.loss_grounding_dino import GroundingDinoHungarianMatcher, GroundingDinoImageLoss

    class PerImageTextLoss(GroundingDinoImageLoss):
        def _get_target_classes_one_hot(self, outputs, targets, indices):
            one_hot = torch.zeros_like(outputs["logits"], dtype=torch.long)
            for image, (target, (queries, chosen)) in enumerate(zip(targets, indices, strict=True)):
                maps = outputs["label_maps"][image][target["class_labels"][chosen]]
                one_hot[image, queries] = maps.to(torch.long)
            return one_hot

    matcher = GroundingDinoHungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
    criterion = PerImageTextLoss(matcher, config.focal_alpha, ["labels", "boxes"])
    weights = {"loss_ce": 2.0, "loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
    total = logits.new_zeros(())
    for layer_logits, layer_boxes in zip(outputs["outputs_class"], outputs["outputs_coord"], strict=True):
        layer = {"logits": layer_logits, "pred_boxes": layer_boxes, "label_maps": label_maps, "text_mask": text_mask}
        losses = criterion(layer, labels)
        total = total + sum(weights[name] * losses[name] for name in weights)
    return total, {}, None


def dense_loss(outputs: Any, labels: list[dict[str, torch.Tensor]], ids: torch.Tensor, input_px: int) -> torch.Tensor:
    """Focal, L1 and GIoU loss of the encoder's proposals: every cell in the middle of an object proposes it.

    Many cells for one object give the backbone and the text far more to learn from than one query per object; the
    decoder, matched one to one, keeps one of them.
    """
    import torch
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    centres, cell_sizes = [], []
    for stride in (8, 16, 32):
        cells = input_px // stride
        axis = (torch.arange(cells) + 0.5) / cells
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centres.append(torch.stack([x, y], -1).view(-1, 2))
        cell_sizes.append(torch.full((cells * cells,), 1 / cells))
    logits = outputs.enc_outputs_class
    centre, cell = torch.cat(centres).to(logits.device), torch.cat(cell_sizes).to(logits.device)
    length = ids.shape[1]
    targets = torch.zeros_like(logits[..., :length], dtype=torch.float32)
    image_index, cell_index, boxes = [], [], []
    for image, label in enumerate(labels):
        box = label["boxes"]
        if len(box) == 0:
            continue
        reach = torch.maximum(0.3 * box[:, 2:].amin(-1)[None], 0.71 * cell[:, None])
        distance = (centre[:, None] - box[None, :, :2]).abs().amax(-1)
        # Coarse cells see several small objects at once: only those of a fitting size take part.
        near = (distance <= reach) & (cell[:, None] <= box[:, 2:].amax(-1)[None] * 1.1)
        positive, which = near.nonzero(as_tuple=True)
        nearest = torch.where(near, distance, torch.inf).argmin(1)
        keep = nearest[positive] == which
        positive, which = positive[keep], which[keep]
        tokens = 1 + 2 * label["class_labels"][which]  # one token a word, a dot after each
        targets[image, positive, tokens] = 1.0
        image_index += [image] * len(positive)
        cell_index.append(positive)
        boxes.append(box[which])
    mask = (ids != PAD_ID)[:, None, :].expand_as(targets)
    chosen = logits[..., :length].float().masked_fill(~mask, -20.0)
    count = max(1, len(image_index))
    loss = 2.0 * sigmoid_focal_loss(chosen, targets, alpha=0.25, gamma=2.0)[mask].sum() / count
    if boxes:
        predicted = outputs.enc_outputs_coord_logits[torch.tensor(image_index), torch.cat(cell_index)].float().sigmoid()
        wanted = torch.cat(boxes)
        loss = loss + 5.0 * (predicted - wanted).abs().sum() / count
        loss = loss + 2.0 * generalized_box_iou_loss(_xyxy(predicted), _xyxy(wanted), reduction="sum") / count
    return loss


def _xyxy(boxes: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def train(config: MicroTrainingConfig, recipe: GroundingDinoRecipe = GroundingDinoRecipe()) -> None:
    """Train for `config.minutes`, resume where a killed run stopped, write the model folder."""
    import torch

    prepare_process(config)
    model: Any = build_model(recipe).to(torch.device(config.device))  # pyright: ignore[reportArgumentType]
    model.loss_function = decoder_loss
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    training = Training(
        config,
        "grounding_dino",
        model,
        [(optimizer, recipe.learning_rate)],
        ema_decay=recipe.ema_decay,
        decay=0.35,
    )
    rng = np.random.default_rng(training.seed(2))

    def losses(use_bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the decoder and of the encoder's proposals, on a fresh batch."""
        batch = make_batch(rng, recipe.batch_size, recipe.augmentation)
        texts = draw_texts(rng, batch, recipe.unknown_word_share)
        labels = [{k: v.to(config.device) for k, v in label.items()} for label in make_labels(batch, texts)]
        ids = encode_texts(texts).to(config.device)
        with autocast(config.device, use_bf16):
            outputs = model(
                pixel_values=to_pixel_values(batch.images, recipe.input_px).to(config.device),
                input_ids=ids,
                attention_mask=(ids != PAD_ID).long(),
                labels=labels,
            )
        return outputs.loss, dense_loss(outputs, labels, ids, recipe.input_px)

    def total(decoder: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return decoder + recipe.dense_weight * dense

    model.train()
    use_bf16 = training.pick_bf16(lambda use_bf16: total(*losses(use_bf16)))
    while training.clock.running():
        decoder, dense = losses(use_bf16)
        metrics = {"decoder": decoder.item(), "dense": dense.item()}
        training.step(total(decoder, dense), recipe.batch_size, metrics)
    training.checkpoint()
    with training.ema.applied():
        export_folder(lambda folder: save(model, recipe, folder), config.out_dir / "grounding_dino")


def save(model: Any, recipe: GroundingDinoRecipe, folder: Path) -> None:
    """A transformers folder in bfloat16, with tokenizer and image processor. The model itself stays as it is."""
    import torch

    copy.deepcopy(model.eval()).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    build_image_processor(recipe).save_pretrained(folder)


if __name__ == "__main__":
    train(MicroTrainingConfig(minutes=float(os.environ.get("MINUTES", "12")), num_threads=1))
