"""One transformer attends by plain products: diffusers' own block around them, and no other transformer notices."""

import copy

import pytest
import torch
from diffusers.models.transformers import transformer_flux

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, condition_ids
from inference.flux.latents import image_ids
from inference.flux.plain_attention import plain_products, use_plain_attention
from microworld.training.flux_model import build_transformer

NOISE = torch.Generator().manual_seed(1)
NOISY, EMBEDS, POOLED = (torch.randn(2, *shape, generator=NOISE) for shape in ((16, 16), (8, 128), (128,)))
TIMES, GUIDANCE = torch.tensor([0.2, 0.9]), torch.tensor([1.0, 3.0])


def random_transformer():
    torch.manual_seed(0)
    transformer = build_transformer()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return transformer


def conditioned(attention):
    torch.manual_seed(0)
    model = ConditionedFlux(random_transformer(), ConditionConfig(attention, lora_on="all", rank=4, alpha=4.0))
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def run(model):
    """Velocity and gradients, as one list."""
    if isinstance(model, ConditionedFlux):
        ids, places = image_ids(4, 4), condition_ids(4, 4, 4)
        velocity = model(NOISY, TIMES, GUIDANCE, EMBEDS, POOLED, ids, NOISY.flip(1), places)
    else:
        velocity = model(
            hidden_states=NOISY,
            timestep=TIMES,
            guidance=GUIDANCE,
            encoder_hidden_states=EMBEDS,
            pooled_projections=POOLED,
            img_ids=image_ids(4, 4),
            txt_ids=torch.zeros(8, 3),
            return_dict=False,
        )[0]
    model.zero_grad()
    velocity.square().mean().backward()
    return [velocity.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a, b):
    return len(a) == len(b) > 1 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_is_diffusers_own_block_around_plain_products_bit_for_bit(monkeypatch):
    transformer = random_transformer()
    fused = run(transformer)
    with monkeypatch.context() as patch:
        patch.setattr(transformer_flux, "dispatch_attention_fn", lambda q, k, v, **_: plain_products(q, k, v))
        expected = run(transformer)
    assert not same(expected, fused)
    torch.testing.assert_close(expected[0], fused[0], rtol=1e-4, atol=1e-5)
    use_plain_attention(transformer)
    assert same(run(transformer), expected)
    transformer.fuse_qkv_projections()
    torch.testing.assert_close(run(transformer)[0], expected[0], rtol=1e-4, atol=1e-5)


def test_copies_attend_alike_and_other_transformers_as_before():
    plain, other = random_transformer(), random_transformer()
    before, dispatch = run(other), transformer_flux.dispatch_attention_fn
    use_plain_attention(plain)
    assert same(run(copy.deepcopy(plain)), run(plain))
    assert same(run(other), before)
    assert same(run(random_transformer()), before)
    assert transformer_flux.dispatch_attention_fn is dispatch


@pytest.mark.parametrize("attention", ["joint", "cached"])
def test_a_condition_is_attended_to_alike(attention):
    model, other = conditioned(attention), conditioned(attention)
    fused = run(other)
    use_plain_attention(model.base)
    plain = run(model)
    assert not same(plain, fused)
    torch.testing.assert_close(plain[0], fused[0], rtol=1e-4, atol=1e-5)
    assert same(run(other), fused)
