"""The blocks of a FLUX with a condition as modules of their own, to be compiled and recomputed one by one.

`ConditionedFlux` names its LoRA by block number, which a compiler would take for fifty-seven different programs. A
`ConditionedBlock` holds its block's part of the LoRA under names without a number: one program a kind of block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from inference.flux.acceleration import allow_many_shapes
from inference.flux.conditioning import ConditionedFlux, KeysAndValues, _Stream


class _BlockLora:
    """One block's part of a `Lora`; names begin with a dot."""

    def __init__(self, model: ConditionedFlux, block_name: str) -> None:
        lora = model.lora
        self.scale = lora.scale
        start = block_name.replace(".", "/")
        keys = [key for key in lora.down if key.startswith(start + "/")]
        self.pairs = {key[len(start) :].replace("/", "."): (lora.down[key], lora.up[key]) for key in keys}

    def __call__(self, layer: nn.Module, name: str, x: torch.Tensor, *, adapted: bool) -> torch.Tensor:
        y = layer(x)
        if not adapted or name not in self.pairs:
            return y
        down, up = self.pairs[name]
        return y + (x @ down.T.to(x.dtype)) @ up.T.to(x.dtype) * self.scale


class ConditionedBlock(nn.Module):
    """One block over all streams, without changing its input."""

    def __init__(self, model: ConditionedFlux, number: int) -> None:
        super().__init__()
        num_double = len(model.base.transformer_blocks)
        self.is_double = number < num_double
        if self.is_double:
            self.block, name = model.base.transformer_blocks[number], f"transformer_blocks.{number}"
        else:
            number -= num_double
            self.block, name = model.base.single_transformer_blocks[number], f"single_transformer_blocks.{number}"
        self.lora = _BlockLora(model, name)

    def forward(
        self,
        xs: tuple[torch.Tensor, ...],
        tembs: tuple[torch.Tensor, ...],
        rotaries: tuple[KeysAndValues, ...],
        kinds: tuple[tuple[bool, bool], ...],
        prefix: KeysAndValues | None,
    ) -> tuple[tuple[torch.Tensor, ...], KeysAndValues]:
        """New tokens of each stream, and their keys and values. kinds: (is_text, adapted) of each stream."""
        streams = [
            _Stream(x, temb, rotary, is_text, adapted)
            for x, temb, rotary, (is_text, adapted) in zip(xs, tembs, rotaries, kinds, strict=True)
        ]
        this: Any = self
        run = ConditionedFlux._double if self.is_double else ConditionedFlux._single
        own = run(this, self.block, "", streams, prefix)
        return tuple(s.x for s in streams), own

    def _heads(
        self, attn: Any, name: str, parts: Sequence[str], x: torch.Tensor, stream: _Stream
    ) -> Sequence[torch.Tensor]:
        fused = getattr(attn, "to_added_qkv" if parts[0].startswith("add") else "to_qkv", None)
        if fused is not None and not stream.adapted and torch.compiler.is_compiling():
            return [y.unflatten(-1, (-1, attn.head_dim)) for y in fused(x).chunk(3, dim=-1)]
        this: Any = self
        return ConditionedFlux._heads(this, attn, name, parts, x, stream)


def run_blocks(
    model: ConditionedFlux, compiled: bool = False, recomputed: bool = False, backend: Any = "inductor"
) -> None:
    """From now on the model's blocks are compiled, and with gradients recomputed in the backward pass (gradient
    checkpointing: only what passes between blocks is kept)."""
    blocks = [ConditionedBlock(model, number) for number in range(model._num_blocks)]
    if compiled:
        allow_many_shapes()
        for block in blocks:
            block.compile(fullgraph=True, dynamic=False, backend=backend)

    def run(number: int, streams: list[_Stream], prefix: KeysAndValues | None) -> KeysAndValues:
        tokens = tuple(s.x for s in streams)
        rest = (
            tuple(s.temb for s in streams),
            tuple(s.rotary for s in streams),
            tuple((s.is_text, s.adapted) for s in streams),
            prefix,
        )
        if recomputed and torch.is_grad_enabled():
            done: Any = checkpoint(blocks[number], tokens, *rest, use_reentrant=False)
        else:
            done = blocks[number](tokens, *rest)
        for stream, x in zip(streams, done[0], strict=True):
            stream.x = x
        return done[1]

    model._run = run  # in the instance: takes the place of the method
