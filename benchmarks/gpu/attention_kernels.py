"""Which of PyTorch's attention kernels is the fastest on a device, measured."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional

from inference.flux.acceleration import AttentionKernel


def measure_attention_kernels(tokens: int, heads: int, head_dim: int, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of each kernel that runs here, for bfloat16 (1, heads, tokens, head_dim) on the CUDA device."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {
        "default": nullcontext(),
        "flash": sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        "cudnn": sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
        "efficient": sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    }
    q, k, v = torch.randn(3, 1, tokens, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(2, 3)
    found = {}
    for name, kernel in kernels.items():
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        try:
            with kernel:
                functional.scaled_dot_product_attention(q, k, v)
                start.record()
                for _ in range(repeats):
                    functional.scaled_dot_product_attention(q, k, v)
                end.record()
        except RuntimeError:  # this kernel is not built for this device
            continue
        torch.cuda.synchronize()
        found[name] = start.elapsed_time(end) / repeats
    return found


def fastest_attention_kernel(measured: dict[str, float]) -> AttentionKernel:
    """Of what `measure_attention_kernels` found. PyTorch's own choice where it is among the fastest, or none runs: to
    name a kernel costs a copy of what it reads."""
    fastest: Any = min(measured, key=lambda name: measured[name], default="default")
    return "default" if measured.get("default", 0.0) <= 1.1 * measured.get(fastest, 0.0) else fastest
