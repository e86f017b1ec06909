"""Blocks with a condition, one by one: the numbers and gradients of the plain loop, in one graph a kind of block."""

from dataclasses import replace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioned_blocks import run_blocks
from inference.flux.conditioning import ConditionedFlux, condition_ids
from inference.flux.fused_blocks import fuse_blocks
from microworld.training.flux_guidance import velocity
from tests.support.tiny_models import flux_transformer

JOINT = ConditionConfig(rank=4, alpha=4.0)
CONFIGS = {
    "joint": JOINT,
    "cached": replace(JOINT, attention="cached"),
    "cached without text": replace(JOINT, attention="cached", text_copy=False),
    "everywhere": replace(JOINT, lora_on="all"),
}


def model_of(config):
    model = ConditionedFlux(flux_transformer(), config)
    torch.manual_seed(2)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def arguments(condition=True):
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return (
        noise(2, 16, 16),
        torch.tensor([0.3, 0.9]),
        torch.tensor([3.0, 1.0]),
        noise(2, 7, 32),
        noise(2, 32),
        condition_ids(4, 4, 0),
        noise(2, 9, 16) if condition else None,
        condition_ids(3, 3, 3) if condition else None,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_one_by_one_gives_the_same_velocity_and_gradients(name):
    model = model_of(CONFIGS[name])
    plain = model(*arguments())
    plain.square().mean().backward()
    gradients = {key: p.grad.clone() for key, p in model.lora.named_parameters() if p.grad is not None}
    model.zero_grad()
    run_blocks(model, recomputed=True)
    again = model(*arguments())
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5)
    again.square().mean().backward()
    assert {key for key, p in model.lora.named_parameters() if p.grad is not None} == set(gradients)
    for key, parameter in model.lora.named_parameters():
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["joint", "everywhere"])
def test_compiled_blocks_share_one_graph_a_kind(name):
    model = model_of(CONFIGS[name])
    with torch.no_grad():
        plain = model(*arguments())
        torch._dynamo.reset()
        compiler = CompileCounterWithBackend("aot_eager")
        run_blocks(model, compiled=True, backend=compiler)
        torch.testing.assert_close(model(*arguments()), plain, rtol=1e-5, atol=1e-5)
    assert compiler.frame_count == 2


def test_a_compiled_fused_block_computes_each_product_once():
    """Query, key and value are one product; the compiler would not find out that three are equal."""
    products = []

    def count(graph, _):
        names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        products.append(sum(name.startswith(("aten.addmm", "aten.mm", "aten.bmm")) for name in names))
        return make_boxed_func(graph.forward)

    base = flux_transformer()
    fuse_blocks(base)
    model = ConditionedFlux(base, JOINT)
    run_blocks(model, compiled=True, backend=aot_autograd(fw_compiler=count))
    with torch.no_grad():
        model(*arguments(condition=False))
    double = 2 * (len(("norm1", "to_qkv", "to_out")) + len(("ff.net.0", "ff.net.2")))
    assert products == [double, len(("norm", "to_qkv", "proj_mlp", "proj_out"))]


def test_without_a_condition_it_is_still_the_transformer_itself():
    model = model_of(JOINT)
    noisy, t, guidance, embeds, pooled, ids, _, _ = arguments(condition=False)
    with torch.no_grad():
        run_blocks(model)
        ours = model(noisy, t, guidance, embeds, pooled, ids, None, None)
        theirs = velocity(model.base, noisy, t, guidance, embeds, pooled, ids, torch.zeros(7, 3))
    assert torch.equal(ours, theirs)
