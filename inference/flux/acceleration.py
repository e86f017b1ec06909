"""FLUX's transformer made faster: one compiled kernel graph a kind of block, 8-bit products, an attention kernel.

None of it changes a weight that is saved. Compiling and choosing the attention kernel change images by rounding alone;
`fp8_dynamic` by the 8-bit rounding of weights and activations (benchmarks/gpu/gpu_flux.py prints by how much).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

AttentionKernel = Literal["default", "flash", "cudnn", "efficient", "math"]
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max  # 448
# The layers of a block that multiply every token. Modulations see one vector an image: nothing to gain, much to lose.
TOKEN_LAYERS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "proj_mlp", "proj_out")
TOKEN_LAYER_ENDS = ("to_out.0", "net.0.proj", "net.2", ".mlp.proj")
FUSED_LAYERS = ("to_qkv", "to_added_qkv", "out_attention", "out_mlp")


def allow_many_shapes() -> None:
    """Let torch.compile keep one graph for each kind of block and each shape: past its limit it would not compile."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.accumulated_recompile_limit = 1024


def compile_blocks(transformer: FluxTransformer2DModel, backend: str = "inductor") -> None:
    """Each block compiled as a whole, for the shapes it meets (regional compilation).

    All blocks of a kind share one graph, so compiling takes as long as for one double and one single block.
    """
    allow_many_shapes()
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        module: Any = block
        module.compile(fullgraph=True, dynamic=False, backend=backend)
    # Each single block hands the next one slices of its result, but the first gets tensors of their own: another
    # memory layout, and so another graph to compile, unless it gets slices as well.
    first: Any = transformer.single_transformer_blocks[0]
    run = first._compiled_call_impl

    def run_with_slices(
        hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *others: Any, **named: Any
    ) -> Any:
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        text, image = both.split([encoder_hidden_states.shape[1], hidden_states.shape[1]], dim=1)
        return run(image, text, *others, **named)

    first._compiled_call_impl = run_with_slices


def use_attention_kernel(transformer: FluxTransformer2DModel, kernel: AttentionKernel) -> None:
    """Which of PyTorch's attention kernels all blocks call; `default` leaves the choice to PyTorch."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    name = "native" if kernel == "default" else f"_native_{kernel}"
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        attn: Any = block.attn
        attn.processor._attention_backend = AttentionBackendName(name)


class Float8Linear(nn.Linear):
    """A linear layer whose product is of 8-bit numbers: weights scaled row by row, activations token by token.

    Both scales are the largest magnitude over 448, e4m3's largest number, so nothing overflows. On the CPU, and on GPUs
    before Hopper, the same rounded numbers are multiplied in float32.
    """

    def __init__(self, linear: nn.Linear, device: torch.device | None = None) -> None:
        """Takes over the bias; the weight is rounded, the one given is left as it is. device: where it will compute, if
        that is not where the weight lies now."""
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        rounded, scale = to_float8_rows(linear.weight.detach())
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias
        self.native = has_float8_products(device or linear.weight.device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), of the input's dtype."""
        tokens, scale = to_float8_rows(input.flatten(0, -2))
        if self.native:
            y = torch._scaled_mm(
                tokens, self.weight.t(), scale, self.scale.t(), self.bias, out_dtype=input.dtype, use_fast_accum=True
            )
        else:
            product = (tokens.float() @ self.weight.float().t()) * scale * self.scale.t()
            y = product if self.bias is None else product + self.bias.float()
        return y.to(input.dtype).unflatten(0, input.shape[:-1])


def to_float8_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (n, d) -> e4m3 numbers (n, d) and float32 scales (n, 1) whose product is x, rounded. Rows of zeros stay."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp(min=1e-12) / FLOAT8_MAX
    # Clamped: the division may round past the largest number, and e4m3 has no infinity but NaN.
    return (x.float() / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale


def has_float8_products(device: torch.device) -> bool:
    """Whether the device multiplies 8-bit floats with a scale for each row (Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def float8_targets(transformer: FluxTransformer2DModel) -> Iterator[tuple[str, nn.Linear]]:
    """Names and layers of all blocks that multiply tokens and whose sizes the 8-bit product takes (multiples of 16)."""
    for name, layer in transformer.named_modules(remove_duplicate=False):
        in_block = name.startswith(("transformer_blocks.", "single_transformer_blocks."))
        last = name.rpartition(".")[2]
        chosen = last in TOKEN_LAYERS or last in FUSED_LAYERS or name.endswith(TOKEN_LAYER_ENDS)
        if not (in_block and chosen and isinstance(layer, nn.Linear)) or isinstance(layer, Float8Linear):
            continue
        if layer.in_features % 16 == 0 and layer.out_features % 16 == 0:
            yield name, layer


def quantize_float8(transformer: FluxTransformer2DModel, device: str | None = None) -> dict[str, nn.Linear]:
    """Put a Float8Linear in the place of every such layer. device: as there. Returns what was replaced, by name."""
    replaced = dict(float8_targets(transformer))
    rounded = {id(layer): Float8Linear(layer, torch.device(device) if device else None) for layer in replaced.values()}
    put_layers(transformer, {name: rounded[id(layer)] for name, layer in replaced.items()})
    return replaced


def put_layers(transformer: FluxTransformer2DModel, layers: Mapping[str, nn.Module]) -> None:
    """Put layers in their places, by name."""
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(transformer.get_submodule(parent), attribute, layer)
