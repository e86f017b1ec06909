"""One forward pass of the VLM over rows of packed turns, for training: the same modules, plain batched attention.

A row is one image (or two) with many questions and answers about it. Every turn sees the row's prefix (system
message and images) and itself, never another turn, and its positions go on where the prefix ended: it is exactly the
conversation of that one turn, but the image is paid for once. transformers' own forward loops over images in the
vision tower and has no such mask; on a CPU, PyTorch's fused attention is slower than two plain products here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microworld.training.vlm_model import CELL_PX, MERGE, PATCH_PX, PIXEL_MEAN, PIXEL_STD, TEMPORAL_PATCH

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration


LOOKING_LAYER = 2  # the first whose tokens know the words before them


def patchify(images: np.ndarray) -> np.ndarray:
    """uint8 (B, H, W, 3) -> float32 (B, H/4 * W/4, 96), equal to what the processor gives for each image."""
    count, height, width, channels = images.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    pixels = (images.astype(np.float32) - np.float32(255 * PIXEL_MEAN)) / np.float32(255 * PIXEL_STD)
    patches = pixels.reshape(count, rows, MERGE, PATCH_PX, columns, MERGE, PATCH_PX, channels)
    patches = patches.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # B, row, column, row in cell, column in cell, channel, y, x
    patches = patches.reshape(count, rows * columns * MERGE * MERGE, channels, 1, PATCH_PX * PATCH_PX)
    size = channels * TEMPORAL_PATCH * PATCH_PX * PATCH_PX
    return np.repeat(patches, TEMPORAL_PATCH, axis=3).reshape(count, patches.shape[1], size)


@dataclass(frozen=True)
class PackedRows:
    """`rows` B conversations of L tokens. Every tensor int64 if nothing else is said.

    ids (B, L); turn (B, L), 0 in the prefix, 1, 2, ... in the turns, -1 in padding; visible (B, L), how many tokens
    of the prefix a token may see; positions (3, B, L); targets (B, L), the token that follows where it is learnt,
    else -100; weights float32 (B, L), how much each of them counts; patches float32 (N, P, 96) of all rows' images in
    order; image_columns (T,), where each row's image tokens stand; patch_positions (2, P), the row and column of each
    patch of one image; names (M, 4): row and column of each token that ends the name of a shape, the shape's number
    and the colour's (`vlm_cells.find_names`).
    """

    ids: torch.Tensor
    turn: torch.Tensor
    visible: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    patches: torch.Tensor
    image_columns: torch.Tensor
    patch_positions: torch.Tensor
    names: torch.Tensor


@dataclass(frozen=True)
class AnswerLoss:
    """loss: weighted mean cross-entropy over the answers' tokens. accuracy: share of them that come first. features
    (B, T, width): the image tokens as the tower gave them, None without images. named (M, width): hidden states of the
    tokens that end a name, after three fifths of the layers; looks (M, L): where those tokens look in the second layer,
    as logits of its first head."""

    loss: torch.Tensor
    accuracy: torch.Tensor
    features: torch.Tensor | None
    named: torch.Tensor
    looks: torch.Tensor


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """query (B, H, L, d), key and value (B, G, L, d) with G groups of heads -> (B, L, H * d)."""
    b, heads, length, d = query.shape
    groups = key.shape[1]
    query = query.reshape(b * groups, (heads // groups) * length, d)
    key, value = key.reshape(b * groups, length, d), value.reshape(b * groups, length, d)
    scores = (query @ key.transpose(-1, -2)).float() * d**-0.5
    if bias is not None:
        scores = scores.view(b, heads, length, length) + bias
    weights = scores.softmax(-1).to(value.dtype).view(b * groups, (heads // groups) * length, length)
    return (weights @ value).view(b, heads, length, d).transpose(1, 2).reshape(b, length, heads * d)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x (..., d) in float32."""
    import torch

    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def patch_positions(rows: int, columns: int) -> np.ndarray:
    """Row and column of each patch in the order of `patchify`, of an image of rows x columns tokens: int64 (2, P)."""
    y, x = np.mgrid[: rows * MERGE, : columns * MERGE]
    blocks = np.stack([y, x]).reshape(2, rows, MERGE, columns, MERGE).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(2, -1).copy()


def _vision_block(block: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """hidden (N, P, width); cos and sin (P, head width)."""
    attention = block.attn
    count, num_patches, _ = hidden.shape
    qkv = attention.qkv(_norm(block.norm1, hidden)).view(count, num_patches, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    hidden = hidden + attention.proj(_attend(_rotate(query, cos, sin), _rotate(key, cos, sin), value, None))
    return hidden + block.mlp(_norm(block.norm2, hidden))


def _decoder_layer(
    layer: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """hidden (B, L, width); cos and sin (B, 1, L, head width); bias (B, 1, L, L)."""
    attention = layer.self_attn
    b, length, _ = hidden.shape
    normed = _norm(layer.input_layernorm, hidden)
    query, key, value = (
        projected.view(b, length, -1, attention.head_dim).transpose(1, 2)
        for projected in (attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed))
    )
    hidden = hidden + attention.o_proj(_attend(_rotate(query, cos, sin), _rotate(key, cos, sin), value, bias))
    return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))


def _looks(
    layer: Any, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, bias: torch.Tensor, names: torch.Tensor
) -> torch.Tensor:
    """(M, L): logits of the layer's first head at the tokens that `names` gives; the rest as `_decoder_layer`'s."""
    attention = layer.self_attn
    width, (row, column) = attention.head_dim, names[:, :2].unbind(1)
    normed = _norm(layer.input_layernorm, hidden)
    query = attention.q_proj(normed[row, column])[:, :width]
    key = attention.k_proj(normed)[..., :width]
    query = _rotate(query, cos[row, 0, column], sin[row, 0, column])
    key = _rotate(key, cos[:, 0], sin[:, 0])
    return (key[row] @ query[..., None])[..., 0].float() * width**-0.5 + bias[row, 0, column]


def _norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """RMSNorm, computed in float32, in the type of `hidden`."""
    wide = hidden.float()
    scale = (wide.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    return (norm.weight * (wide * scale)).to(hidden.dtype)


class PackedForward:
    """The forward pass over packed rows. `compile` compiles one block of each tower a shape, not the whole model."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, compile: bool = False) -> None:
        import torch

        self.model = model
        self._vision_block, self._decoder_layer = _vision_block, _decoder_layer
        if compile:
            self._vision_block = torch.compile(_vision_block, dynamic=False)
            self._decoder_layer = torch.compile(_decoder_layer, dynamic=False)

    def image_features(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """patches (N, P, 96) of N images of one size, positions (2, P) -> (N, P / 4, width)."""
        import torch

        visual = self.model.model.visual
        count, num_patches, _ = patches.shape
        # The Conv3d over a patch is one product.
        weight = visual.patch_embed.proj.weight
        hidden = torch.nn.functional.linear(patches, weight.view(weight.shape[0], -1))
        angles = positions[..., None] * visual.rotary_pos_emb.inv_freq
        angles = torch.cat([angles[0], angles[1]], -1)
        cos, sin = (torch.cat([f, f], -1) for f in (angles.cos(), angles.sin()))
        for block in visual.blocks:
            hidden = self._vision_block(block, hidden, cos, sin)
        merged = _norm(visual.merger.ln_q, hidden).view(count, num_patches // MERGE**2, -1)
        return visual.merger.mlp(merged)

    def hidden_states(self, rows: PackedRows) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Last hidden states (B, L, width), after the final norm; `features`, `named`, `looks` as in `AnswerLoss`."""
        import torch

        language = self.model.model.language_model
        b, length = rows.ids.shape
        hidden, features = language.embed_tokens(rows.ids), None
        if len(rows.patches):
            features = self.image_features(rows.patches, rows.patch_positions).view(b, len(rows.image_columns), -1)
            hidden = hidden.index_copy(1, rows.image_columns, features.to(hidden.dtype))
        cos, sin = language.rotary_emb(hidden, rows.positions)
        cos, sin = cos[:, None], sin[:, None]
        order = torch.arange(length, device=rows.ids.device)
        earlier = order[:, None] >= order[None]
        same = rows.turn[:, :, None] == rows.turn[:, None, :]
        prefix = (rows.turn[:, None, :] == 0) & (order < rows.visible[:, :, None])
        bias = torch.where(earlier & (same | prefix), 0.0, -1e4)[:, None]
        named = looks = hidden[:0, 0]
        for number, layer in enumerate(language.layers, 1):
            if number == LOOKING_LAYER:
                looks = _looks(layer, hidden, cos, sin, bias, rows.names)
            hidden = self._decoder_layer(layer, hidden, cos, sin, bias)
            if number == 3 * len(language.layers) // 5:
                named = hidden[rows.names[:, 0], rows.names[:, 1]]
        return _norm(language.norm, hidden), features, named, looks

    def answer_loss(self, rows: PackedRows) -> AnswerLoss:
        """The loss of a batch, lm_head only where something is learnt."""
        import torch

        learnt = rows.targets.flatten() >= 0
        hidden, features, named, looks = self.hidden_states(rows)
        chosen, wanted = hidden.flatten(0, 1)[learnt], rows.targets.flatten()[learnt]
        logits = self.model.lm_head(chosen).float()
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        weights = rows.weights.flatten()[learnt]
        loss = (losses * weights).sum() / weights.sum()
        return AnswerLoss(loss, (logits.argmax(-1) == wanted).float().mean(), features, named, looks)
