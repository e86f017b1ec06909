"""FLUX with an image as a condition: the transformer's own modules over [text; target; condition].

The condition's tokens lie to the left of the image (position ids shifted), see timestep 0, guidance 1 and the pooled
text, and pass through the same weights as the image's tokens, with a LoRA (OminiControl; ReflectionFlow §3.3, Eq. 4).
Two ways of attending:

- `joint`, as published: all tokens attend to all, so the condition is computed anew at each denoising step;
- `cached`: the condition attends only to itself and, by option, to a copy of the text taken at timestep 0. Nothing of
  it depends on the noisy image then, so its keys and values are computed once for all steps.

Without a condition the result is the transformer's own, number for number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from inference.flux.condition_config import ConditionConfig
from inference.flux.latents import image_ids
from schemas.errors import InputError

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

# The published targets, by the names that diffusers' LoRA files use.
DOUBLE_TARGETS = ("norm1.linear", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.2")
SINGLE_TARGETS = ("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")
EMBEDDER_TARGET = "x_embedder"
# The text's own projections, for a text copy that is adapted too (beyond the paper).
TEXT_TARGETS = (
    "norm1_context.linear",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff_context.net.2",
)
KeysAndValues = tuple[torch.Tensor, torch.Tensor]


class Lora(nn.Module):
    """Low-rank additions to linear layers, by name; the layers themselves stay as they are."""

    def __init__(self, transformer: FluxTransformer2DModel, config: ConditionConfig) -> None:
        """A is Gaussian with standard deviation 1/rank, B zero: at first nothing is added."""
        super().__init__()
        self.scale = config.alpha / config.rank
        self.names = tuple(lora_targets(transformer, config))
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name in self.names:
            layer = transformer.get_submodule(name)
            if not isinstance(layer, nn.Linear):
                raise InputError(f"{name} is no linear layer", expected="a FluxTransformer2DModel")
            key = name.replace(".", "/")
            self.down[key] = nn.Parameter(torch.randn(config.rank, layer.in_features) / config.rank)
            self.up[key] = nn.Parameter(torch.zeros(layer.out_features, config.rank))

    def forward(self, layer: nn.Module, name: str, x: torch.Tensor, *, adapted: bool) -> torch.Tensor:
        """layer(x), with what is added to it where `adapted`."""
        y = layer(x)
        key = name.replace(".", "/")
        if not adapted or key not in self.down:
            return y
        return y + (x @ self.down[key].T.to(x.dtype)) @ self.up[key].T.to(x.dtype) * self.scale

    def to_file_tensors(self) -> dict[str, torch.Tensor]:
        """Names as `FluxPipeline.save_lora_weights` takes them (without the prefix "transformer.")."""
        tensors = {}
        for name in self.names:
            key = name.replace(".", "/")
            tensors[f"{name}.lora_A.weight"] = self.down[key].detach()
            tensors[f"{name}.lora_B.weight"] = self.up[key].detach()
        return tensors

    def load_file_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """InputError unless exactly this LoRA's tensors are there, of the right shapes."""
        wanted = {name: value.shape for name, value in self.to_file_tensors().items()}
        found = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        if len(found) < len(tensors) or {name: value.shape for name, value in found.items()} != wanted:
            missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
            raise InputError(
                f"not this corrector's LoRA (missing {missing[:2]}, unexpected {extra[:2]}, {len(found)} tensors)",
                expected="the layers and rank that its configuration names",
            )
        with torch.no_grad():
            for name in self.names:
                key = name.replace(".", "/")
                self.down[key].copy_(found[f"{name}.lora_A.weight"])
                self.up[key].copy_(found[f"{name}.lora_B.weight"])


def lora_targets(transformer: FluxTransformer2DModel, config: ConditionConfig) -> Iterable[str]:
    """Names of the layers that get a LoRA."""
    yield EMBEDDER_TARGET
    for i in range(len(transformer.transformer_blocks)):
        yield from (f"transformer_blocks.{i}.{target}" for target in DOUBLE_TARGETS)
        if config.adapt_text:
            yield from (f"transformer_blocks.{i}.{target}" for target in TEXT_TARGETS)
    for i in range(len(transformer.single_transformer_blocks)):
        yield from (f"single_transformer_blocks.{i}.{target}" for target in SINGLE_TARGETS)


@dataclass
class _Stream:
    """Tokens that pass through the same weights in the same state: x (B, n, d), their modulation vector (B, d), rotary
    tables (n, head) each; `is_text`: through the text's own weights in double blocks; `adapted`: with the LoRA."""

    x: torch.Tensor
    temb: torch.Tensor
    rotary: KeysAndValues
    is_text: bool
    adapted: bool


class ConditionedFlux(nn.Module):
    """A FluxTransformer2DModel with a condition. Only the LoRA has gradients."""

    def __init__(self, transformer: FluxTransformer2DModel, config: ConditionConfig) -> None:
        super().__init__()
        self.config = config
        self.lora = Lora(transformer, config)
        self._base = [transformer.requires_grad_(False)]  # in a list: not a part of the state that is saved

    @property
    def base(self) -> Any:
        """The frozen transformer."""
        return self._base[0]

    def forward(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        guidance: torch.Tensor | None,
        prompt_embeds: torch.Tensor,
        pooled: torch.Tensor,
        image_ids: torch.Tensor,
        condition: torch.Tensor | None,
        condition_ids: torch.Tensor | None,
        prefix: Sequence[KeysAndValues] | None = None,
    ) -> torch.Tensor:
        """Velocity (B, N, channels) of packed latents `noisy` (B, N, channels) at `timestep` (B,) in [0, 1].

        condition (B, M, channels): packed latents of the flawed image; condition_ids (M, 3). prefix: what
        `prefix_of` gave for them, in `cached`; without it the prefix is computed here.
        """
        base, whole, given = self.base, self.config.lora_on == "all", noisy.dtype
        noisy, prompt_embeds, pooled = (x.to(base.dtype) for x in (noisy, prompt_embeds, pooled))
        temb = self._embed_time(timestep, guidance, pooled)
        text_ids = torch.zeros(prompt_embeds.shape[1], 3, device=noisy.device)
        text = _Stream(
            base.context_embedder(prompt_embeds),
            temb,
            base.pos_embed(text_ids),
            True,
            whole and self.config.adapt_text,
        )
        target = _Stream(self._embed_image(noisy, whole), temb, base.pos_embed(image_ids), False, whole)
        extra: list[_Stream] = []
        if condition is not None and condition_ids is not None:
            if self.config.attention == "cached":
                if prefix is None:
                    prefix = self.prefix_of(prompt_embeds, pooled, condition, condition_ids)
            else:
                extra = [self._condition_stream(condition, condition_ids, pooled, guidance)]
        streams = [text, target, *extra]
        for number in range(self._num_blocks):
            cached = None if prefix is None else prefix[number]
            self._block(number, streams, cached)
        hidden = base.norm_out(target.x, temb)
        return base.proj_out(hidden).to(given)

    def prefix_of(
        self, prompt_embeds: torch.Tensor, pooled: torch.Tensor, condition: torch.Tensor, condition_ids: torch.Tensor
    ) -> list[KeysAndValues]:
        """Keys and values (B, n, heads, head) of the condition (and the text copy) in every block, for `cached`."""
        guidance = torch.ones(len(condition), device=condition.device)
        prompt_embeds, pooled = prompt_embeds.to(self.base.dtype), pooled.to(self.base.dtype)
        streams = [self._condition_stream(condition, condition_ids, pooled, guidance)]
        if self.config.text_copy:
            still = self._embed_time(torch.zeros_like(guidance), self._guidance_or_none(guidance), pooled)
            text_ids = torch.zeros(prompt_embeds.shape[1], 3, device=condition.device)
            copy = _Stream(
                self.base.context_embedder(prompt_embeds),
                still,
                self.base.pos_embed(text_ids),
                True,
                self.config.adapt_text,
            )
            streams.insert(0, copy)
        return [self._block(number, streams, None) for number in range(self._num_blocks)]

    # Parts

    @property
    def _num_blocks(self) -> int:
        return len(self.base.transformer_blocks) + len(self.base.single_transformer_blocks)

    def _guidance_or_none(self, guidance: torch.Tensor | None) -> torch.Tensor | None:
        return guidance if self.base.config.guidance_embeds else None

    def _embed_time(self, timestep: torch.Tensor, guidance: torch.Tensor | None, pooled: torch.Tensor) -> torch.Tensor:
        scaled = timestep.to(pooled.dtype) * 1000
        guidance = self._guidance_or_none(guidance)
        if guidance is None:
            return self.base.time_text_embed(scaled, pooled)
        return self.base.time_text_embed(scaled, guidance.to(pooled.dtype) * 1000, pooled)

    def _embed_image(self, latents: torch.Tensor, adapted: bool) -> torch.Tensor:
        return self.lora(self.base.x_embedder, EMBEDDER_TARGET, latents, adapted=adapted)

    def _condition_stream(
        self,
        condition: torch.Tensor,
        condition_ids: torch.Tensor,
        pooled: torch.Tensor,
        guidance: torch.Tensor | None,
    ) -> _Stream:
        ones = None if guidance is None else torch.ones_like(guidance)
        zeros = torch.zeros(len(condition), device=condition.device)
        condition, pooled = condition.to(self.base.dtype), pooled.to(self.base.dtype)
        temb = self._embed_time(zeros, ones, pooled)
        return _Stream(self._embed_image(condition, True), temb, self.base.pos_embed(condition_ids), False, True)

    def _block(self, number: int, streams: list[_Stream], prefix: KeysAndValues | None) -> KeysAndValues:
        """One block over all streams, in place. Returns their keys and values, for a prefix."""
        if number < len(self.base.transformer_blocks):
            return self._run(number, streams, prefix)
        # Single blocks treat text and image alike: where the LoRA does too, both are one stream of tokens, as in
        # diffusers' own. (Products over fewer rows may be rounded otherwise.)
        joined = _join(streams)
        own = self._run(number, joined, prefix)
        if joined is not streams:
            text, image = streams[:2]
            text.x, image.x = joined[0].x.split([text.x.shape[1], image.x.shape[1]], dim=1)
        return own

    def _run(self, number: int, streams: list[_Stream], prefix: KeysAndValues | None) -> KeysAndValues:
        """What `_block` does, of streams as they are."""
        num_double = len(self.base.transformer_blocks)
        if number < num_double:
            block, name = self.base.transformer_blocks[number], f"transformer_blocks.{number}"
            return self._double(block, name, streams, prefix)
        number -= num_double
        block, name = self.base.single_transformer_blocks[number], f"single_transformer_blocks.{number}"
        return self._single(block, name, streams, prefix)

    def _double(self, block: Any, name: str, streams: list[_Stream], prefix: KeysAndValues | None) -> KeysAndValues:
        lora, attn = self.lora, block.attn
        projected, modulations = [], []
        for s in streams:
            norm, norm_name = (block.norm1_context, "norm1_context") if s.is_text else (block.norm1, "norm1")
            vector = lora(norm.linear, f"{name}.{norm_name}.linear", norm.silu(s.temb), adapted=s.adapted)
            shift, scale, gate, *mlp = vector.chunk(6, dim=1)
            x = norm.norm(s.x) * (1 + scale[:, None]) + shift[:, None]
            modulations.append((gate, *mlp))
            q, k, v = ("add_q_proj", "add_k_proj", "add_v_proj") if s.is_text else ("to_q", "to_k", "to_v")
            parts = self._heads(attn, name, (q, k, v), x, s)
            norms = (attn.norm_added_q, attn.norm_added_k) if s.is_text else (attn.norm_q, attn.norm_k)
            projected.append((norms[0](parts[0]), norms[1](parts[1]), parts[2]))
        attended, keys_and_values = _attend(attn, streams, projected, prefix)
        for s, y, (gate, shift, scale, mlp_gate) in zip(streams, attended, modulations, strict=True):
            out, out_name = (attn.to_add_out, "to_add_out") if s.is_text else (attn.to_out[0], "to_out.0")
            # Contiguous, as in diffusers: a linear layer rounds otherwise where rows of a batch lie apart.
            y = lora(out, f"{name}.attn.{out_name}", y.contiguous(), adapted=s.adapted)
            s.x = s.x + gate[:, None] * y
            norm, ff, ff_name = (
                (block.norm2_context, block.ff_context, "ff_context") if s.is_text else (block.norm2, block.ff, "ff")
            )
            x = norm(s.x) * (1 + scale[:, None]) + shift[:, None]
            x = lora(ff.net[2], f"{name}.{ff_name}.net.2", ff.net[1](ff.net[0](x)), adapted=s.adapted)
            s.x = s.x + mlp_gate[:, None] * x
        return keys_and_values

    def _single(self, block: Any, name: str, streams: list[_Stream], prefix: KeysAndValues | None) -> KeysAndValues:
        lora, attn = self.lora, block.attn
        projected, hidden, gates = [], [], []
        for s in streams:
            vector = lora(block.norm.linear, f"{name}.norm.linear", block.norm.silu(s.temb), adapted=s.adapted)
            shift, scale, gate = vector.chunk(3, dim=1)
            x = block.norm.norm(s.x) * (1 + scale[:, None]) + shift[:, None]
            hidden.append(block.act_mlp(lora(block.proj_mlp, f"{name}.proj_mlp", x, adapted=s.adapted)))
            gates.append(gate)
            parts = self._heads(attn, name, ("to_q", "to_k", "to_v"), x, s)
            projected.append((attn.norm_q(parts[0]), attn.norm_k(parts[1]), parts[2]))
        attended, keys_and_values = _attend(attn, streams, projected, prefix)
        for s, y, h, gate in zip(streams, attended, hidden, gates, strict=True):
            x = lora(block.proj_out, f"{name}.proj_out", torch.cat([y, h], dim=2), adapted=s.adapted)
            s.x = s.x + gate[:, None] * x
        return keys_and_values

    def _heads(
        self, attn: Any, name: str, parts: Sequence[str], x: torch.Tensor, stream: _Stream
    ) -> Sequence[torch.Tensor]:
        """Query, key and value of x (B, n, d): (B, n, heads, head) each. parts: the layers' names."""
        found = [self.lora(getattr(attn, p), f"{name}.attn.{p}", x, adapted=stream.adapted) for p in parts]
        return [y.unflatten(-1, (-1, attn.head_dim)) for y in found]


def _join(streams: list[_Stream]) -> list[_Stream]:
    """The first two, which must be text and image, as one; the list itself where they differ in more than that."""
    if len(streams) < 2 or streams[0].temb is not streams[1].temb or streams[0].adapted != streams[1].adapted:
        return streams
    text, image, *others = streams
    tables = zip(text.rotary, image.rotary, strict=True)
    cos, sin = (torch.cat(both) for both in tables)
    both = _Stream(torch.cat([text.x, image.x], 1), image.temb, (cos, sin), False, image.adapted)
    return [both, *others]


def _attend(
    attn: Any,
    streams: Sequence[_Stream],
    projected: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    prefix: KeysAndValues | None,
) -> tuple[list[torch.Tensor], KeysAndValues]:
    """All streams attend to all, and to the prefix. Per stream (B, n, d); and the streams' own keys and values."""
    from diffusers.models.embeddings import apply_rotary_emb

    from inference.flux.plain_attention import attend

    turn: Any = apply_rotary_emb  # typed for one table where it takes two
    both = list(zip(streams, projected, strict=True))
    queries = torch.cat([turn(q, s.rotary, sequence_dim=1) for s, (q, _, _) in both], 1)
    keys = torch.cat([turn(k, s.rotary, sequence_dim=1) for s, (_, k, _) in both], 1)
    values = torch.cat([v for _, _, v in projected], 1)
    own = (keys, values)
    if prefix is not None:
        keys, values = torch.cat([keys, prefix[0]], 1), torch.cat([values, prefix[1]], 1)
    y = attend(attn, queries, keys, values).flatten(2, 3).to(queries.dtype)
    return list(y.split([s.x.shape[1] for s in streams], dim=1)), own


def place_condition(config: ConditionConfig, shown: tuple[int, int], drawn: tuple[int, int]) -> torch.Tensor:
    """Position ids float32 (rows * columns, 3) of a condition of `shown` (rows, columns) of tokens, for an image of
    `drawn` (rows, columns)."""
    if config.position == "left":
        return condition_ids(*shown, shift=shown[1])
    ids = condition_ids(*shown, shift=0)
    for axis in (0, 1):
        scale = drawn[axis] / shown[axis]
        ids[:, 1 + axis] = ids[:, 1 + axis] * scale + (scale - 1) / 2
    return ids


def condition_ids(rows: int, columns: int, shift: int) -> torch.Tensor:
    """Position ids float32 (rows * columns, 3) of a condition that lies `shift` columns to the left of the image.

    shift: the condition's own columns (interop: FLUX's condition_size / 16).
    """
    ids = image_ids(rows, columns)
    ids[:, 2] -= shift
    return ids
