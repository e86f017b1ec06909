"""FLUX's attention as two plain products and a softmax, for one transformer.

On a CPU, PyTorch's fused attention takes 87 ms for a training step's 32 tokens where this takes 12 (a third of the
whole step): it is made for long sequences. Results differ by rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, _get_qkv_projections


class PlainAttention(FluxAttnProcessor):
    """See `FluxAttnProcessor`, of diffusers 0.42: the same but for the products."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> Any:
        """(B, n, d) -> the same; of double blocks, with the text's (B, m, d), both."""
        projected: Any = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query, key, value = (x.unflatten(-1, (-1, attn.head_dim)) for x in projected[:3])
        query, key = attn.norm_q(query), attn.norm_k(key)
        if attn.added_kv_proj_dim is not None:
            text_query, text_key, text_value = (x.unflatten(-1, (-1, attn.head_dim)) for x in projected[3:])
            text_query, text_key = attn.norm_added_q(text_query), attn.norm_added_k(text_key)
            query = torch.cat([text_query, query], dim=1)
            key = torch.cat([text_key, key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        if image_rotary_emb is not None:
            turn: Any = apply_rotary_emb  # typed for one table where it takes two
            query = turn(query, image_rotary_emb, sequence_dim=1)
            key = turn(key, image_rotary_emb, sequence_dim=1)
        attended = plain_products(query, key, value).flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return attended
        length = encoder_hidden_states.shape[1]
        text, image = attended.split_with_sizes([length, attended.shape[1] - length], dim=1)
        image = attn.to_out[1](attn.to_out[0](image.contiguous()))
        return image, attn.to_add_out(text.contiguous())


def plain_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(B, n, heads, d) each -> (B, n, heads, d)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).float().softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2)


def use_plain_attention(transformer: Any) -> None:
    """From now on this transformer, and copies of it, attend so."""
    transformer.set_attn_processor(PlainAttention())


def attend(attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(B, n, heads, d) each -> (B, n, heads, d), as the layer `attn` of a FLUX is set to attend."""
    if isinstance(attn.processor, PlainAttention):
        return plain_products(query, key, value)
    return dispatch_attention_fn(query, key, value, backend=attn.processor._attention_backend)
