"""FLUX's blocks with fewer, larger products: query, key and value in one, and no concatenation before the last layer.

Weights are shared with the layers they are made of, so whoever uses those (the corrector does) still can. For drawing
alone: what is fused has no gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock
from torch import nn
from torch.nn import functional

from inference.flux.acceleration import Float8Linear


@torch.library.custom_op("reflectionflow::linear_gelu", mutates_args=())
def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(x (n, in) @ weight (out, in).T + bias), GELU's tanh form; on CUDA in one kernel."""
    if x.is_cuda:
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


@linear_gelu.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


class LinearGelu(nn.Module):
    """A linear layer and GELU as diffusers' `GELU`, in one kernel where that can be."""

    def __init__(self, proj: nn.Linear) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        if torch.is_grad_enabled() or isinstance(self.proj, Float8Linear):
            return functional.gelu(self.proj(x), approximate="tanh")
        return linear_gelu(x.flatten(0, -2), self.proj.weight, self.proj.bias).unflatten(0, x.shape[:-1])


class FusedSingleBlock(FluxSingleTransformerBlock):
    """Its last layer in two parts, of the attention's result and of the MLP's: nothing is put side by side for it."""

    out_attention: nn.Linear
    out_mlp: nn.Linear
    mlp: LinearGelu | None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `FluxSingleTransformerBlock`; without attention arguments."""
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(x, emb=temb)
        h = self.act_mlp(self.proj_mlp(normed)) if self.mlp is None else self.mlp(normed)
        y = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb)
        x = x + gate.unsqueeze(1) * (self.out_attention(y) + self.out_mlp(h))
        sizes = [encoder_hidden_states.shape[1], hidden_states.shape[1]]
        text, image = x.split(sizes, dim=1)
        return text, image


def fuse_blocks(transformer: Any, gelu: bool = False) -> None:
    """Fuse every block, in place. gelu: GELU in the product's own kernel (of bfloat16 products on CUDA)."""
    for block in transformer.transformer_blocks:
        _fuse(block.attn, "to_qkv", ("to_q", "to_k", "to_v"))
        _fuse(block.attn, "to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"))
        block.attn.fused_projections = True
        if gelu:
            for ff in (block.ff, block.ff_context):
                ff.net[0] = LinearGelu(ff.net[0].proj)
    for block in transformer.single_transformer_blocks:
        _fuse(block.attn, "to_qkv", ("to_q", "to_k", "to_v"))
        block.attn.fused_projections = True
        width = block.attn.to_q.out_features
        block.out_attention = _columns(block.proj_out, 0, width, with_bias=False)
        block.out_mlp = _columns(block.proj_out, width, block.proj_out.in_features, with_bias=True)
        block.mlp = LinearGelu(block.proj_mlp) if gelu else None
        block.__class__ = FusedSingleBlock


def _fuse(attn: Any, name: str, parts: tuple[str, ...]) -> None:
    """One layer of several; theirs become views of its weights."""
    layers = [getattr(attn, part) for part in parts]
    fused = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    fused.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]), requires_grad=False)
    fused.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    first = 0
    for layer in layers:
        rows = slice(first, first + layer.out_features)
        layer.weight = nn.Parameter(fused.weight[rows], requires_grad=False)
        layer.bias = nn.Parameter(fused.bias[rows], requires_grad=False)
        first += layer.out_features
    setattr(attn, name, fused)


def _columns(layer: nn.Linear, first: int, last: int, *, with_bias: bool) -> nn.Linear:
    """The part of a layer that multiplies some of its inputs: a view of its weights."""
    part = nn.Linear(last - first, layer.out_features, bias=False, device="meta")
    part.weight = nn.Parameter(layer.weight.detach()[:, first:last], requires_grad=False)
    part.register_parameter("bias", layer.bias if with_bias else None)
    return part
