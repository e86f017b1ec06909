"""Faster ways of computing FLUX against the plain one: the same numbers, or as near as 8 bits allow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from inference.flux.acceleration import (
    FLOAT8,
    Float8Linear,
    compile_blocks,
    float8_targets,
    put_layers,
    quantize_float8,
    to_float8_rows,
    use_attention_kernel,
)
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, condition_ids
from inference.flux.fused_blocks import fuse_blocks
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from microworld.family import micro_flux
from schemas.errors import InputError
from tests.support.tiny_models import flux_transformer, save_tiny_flux

TOKENS, TEXT_TOKENS = 16, 8


def velocity(model, batch=1):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(batch, TOKENS, 16, generator=generator),
            encoder_hidden_states=torch.randn(batch, TEXT_TOKENS, 32, generator=generator),
            pooled_projections=torch.randn(batch, 32, generator=generator),
            timestep=torch.full((batch,), 0.5),
            guidance=torch.full((batch,), 3.0),
            img_ids=torch.zeros(TOKENS, 3),
            txt_ids=torch.zeros(TEXT_TOKENS, 3),
            return_dict=False,
        )[0]


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def test_all_blocks_of_a_kind_share_one_graph_and_nothing_changes(compiler):
    model = flux_transformer()
    plain = velocity(model)
    compile_blocks(model, backend=compiler)
    torch.testing.assert_close(velocity(model), plain, rtol=0, atol=0)
    assert compiler.frame_count == 2  # one double, one single


def test_another_batch_size_is_compiled_anew_and_the_first_is_kept(compiler):
    model = flux_transformer()
    compile_blocks(model, backend=compiler)
    velocity(model), velocity(model, batch=2), velocity(model)
    assert compiler.frame_count == 4


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_an_attention_kernel_changes_the_velocity_by_rounding_alone(kernel):
    model = flux_transformer()
    plain = velocity(model)
    use_attention_kernel(model, kernel)
    torch.testing.assert_close(velocity(model), plain, rtol=1e-4, atol=1e-5)
    use_attention_kernel(model, "default")
    torch.testing.assert_close(velocity(model), plain, rtol=0, atol=0)


def test_rows_in_float8_are_within_a_sixteenth_of_each_number():
    """e4m3 has three bits after the point: rounding is off by 1/16 of a number, of small ones by the least step."""
    x = torch.randn(64, 128) * torch.logspace(-6, 6, 64)[:, None]
    rounded, scale = to_float8_rows(x)
    assert rounded.dtype == FLOAT8
    assert scale.shape == (64, 1)
    error = (rounded.float() * scale - x).abs()
    least_step = scale * 2.0**-9
    assert (error <= x.abs() / 16 + least_step).all()


def test_rows_of_zeros_and_of_the_largest_numbers_stay_finite():
    x = torch.stack([torch.zeros(16), torch.full((16,), 3.0e38), torch.full((16,), -1e-30)])
    rounded, scale = to_float8_rows(x)
    back = rounded.float() * scale
    assert torch.isfinite(back).all()
    assert (back[0] == 0).all()
    torch.testing.assert_close(back[1], x[1])


def test_a_float8_layer_is_the_product_of_the_rounded_numbers():
    torch.manual_seed(3)
    layer, x = torch.nn.Linear(32, 48), torch.randn(2, 5, 32)
    small = Float8Linear(layer)
    tokens, scale = to_float8_rows(x.flatten(0, 1))
    weight, weight_scale = to_float8_rows(layer.weight.detach())
    expected = (tokens.float() * scale) @ (weight.float() * weight_scale).T + layer.bias
    torch.testing.assert_close(small(x), expected.unflatten(0, (2, 5)))
    assert small.weight.dtype == FLOAT8
    assert (small(x) - layer(x)).norm() / layer(x).norm() < 0.06


def test_only_layers_that_multiply_tokens_in_blocks_become_float8():
    model = flux_transformer()
    plain = velocity(model)
    names = {name for name, _ in float8_targets(model)}
    assert "transformer_blocks.1.attn.to_out.0" in names
    assert "single_transformer_blocks.2.proj_out" in names
    assert not any("norm" in name or "embed" in name or name == "proj_out" for name in names)
    replaced = quantize_float8(model)
    assert set(replaced) == names
    assert len(names) == 2 * 12 + 3 * 5
    assert quantize_float8(model) == {}  # twice is as once
    put_layers(model, replaced)
    torch.testing.assert_close(velocity(model), plain, rtol=0, atol=0)


def test_float8_compiles_into_one_graph_a_kind_too(compiler):
    model = flux_transformer()
    quantize_float8(model)
    eager = velocity(model)
    compile_blocks(model, backend=compiler)
    torch.testing.assert_close(velocity(model), eager)
    assert compiler.frame_count == 2


@pytest.mark.parametrize("gelu", [False, True])
def test_fused_blocks_give_the_same_velocity_and_share_their_weights(gelu, compiler):
    model = flux_transformer()
    plain = velocity(model)
    bytes_before = sum(p.untyped_storage().nbytes() for p in unique_storages(model))
    fuse_blocks(model, gelu)
    assert sum(p.untyped_storage().nbytes() for p in unique_storages(model)) == bytes_before
    torch.testing.assert_close(velocity(model), plain, rtol=1e-5, atol=1e-5)
    compile_blocks(model, backend=compiler)
    torch.testing.assert_close(velocity(model), plain, rtol=1e-5, atol=1e-5)
    assert compiler.frame_count == 2


def unique_storages(model):
    return {p.untyped_storage().data_ptr(): p for p in model.parameters()}.values()


@pytest.mark.parametrize("gelu", [False, True])
def test_fused_blocks_in_8_bits_are_as_near_as_unfused_ones(gelu):
    model = flux_transformer()
    plain = velocity(model)
    fuse_blocks(model, gelu)
    replaced = quantize_float8(model)
    assert {"single_transformer_blocks.0.out_mlp", "transformer_blocks.0.attn.to_added_qkv"} <= set(replaced)
    coarse = velocity(model)
    assert 0 < (coarse - plain).norm() / plain.norm() < 0.1
    put_layers(model, replaced)
    torch.testing.assert_close(velocity(model), plain, rtol=1e-5, atol=1e-5)


def test_a_corrector_on_fused_blocks_sees_the_same_layers():
    model = flux_transformer()
    corrector = ConditionedFlux(model, ConditionConfig(rank=2))
    noisy, t = torch.randn(1, 16, 16), torch.tensor([0.5])
    arguments = (noisy, t, torch.ones(1), torch.randn(1, 8, 32), torch.randn(1, 32), condition_ids(4, 4, 0))
    condition = (torch.randn(1, 9, 16), condition_ids(3, 3, 3))
    with torch.no_grad():
        plain = corrector(*arguments, *condition)
        fuse_blocks(model)
        torch.testing.assert_close(corrector(*arguments, *condition), plain, rtol=0, atol=0)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> FluxGeneratorConfig:
    folder = save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")
    return micro_flux(model=str(folder), num_steps=2, batch_size=2)


def test_a_generator_with_8_bit_products_draws_nearly_the_same(config):
    full = FluxGenerator(config).generate(["a red circle"], [1])[0]
    coarse = FluxGenerator(replace(config, quantization="fp8_dynamic")).generate(["a red circle"], [1])[0]
    difference = np.abs(full.astype(int) - coarse.astype(int))
    assert difference.max() > 0
    assert difference.mean() < 16


@pytest.mark.slow
def test_a_compiled_generator_draws_the_same_within_rounding(config):
    plain = FluxGenerator(config).generate(["a red circle", "a cat"], [1, 2])
    torch._dynamo.reset()
    generator = FluxGenerator(replace(config, compile="blocks"))
    generator.warm_up()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled = generator.generate(["a red circle", "a cat"], [1, 2])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0  # all was compiled at the warm-up
    assert max(np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(plain, compiled, strict=True)) <= 1


def test_blocks_whose_weights_come_and_go_are_not_compiled(config):
    with pytest.raises(InputError, match="compiled blocks"):
        FluxGenerator(replace(config, compile="blocks", quantization="fp8"))


def test_texts_that_are_kept_change_no_image_and_have_a_bound(config, monkeypatch):
    generator = FluxGenerator(config)
    prompts, seeds = ["a red circle", "a cat", "a red circle"], [1, 2, 3]
    encoded = []
    generator.pipeline.text_encoder_2.register_forward_hook(lambda *_: encoded.append(1))
    first = generator.generate(prompts, seeds)
    assert len(encoded) == 2  # each text once
    np.testing.assert_array_equal(generator.generate(prompts, seeds), first)
    assert len(encoded) == 2  # and not again in the next call
    afresh = FluxGenerator(config).generate(prompts[::-1], seeds[::-1])
    np.testing.assert_array_equal(afresh[::-1], first)
    size = generator.encode_text("a cat", 16)[0].nbytes
    monkeypatch.setattr("inference.flux.generator.KEPT_TEXT_BYTES", 3 * size)
    for number in range(8):
        generator.encode_text(f"cat {number}", 16)
        assert sum(embeds.nbytes for embeds, _ in generator._encoded.values()) <= 3 * size
    np.testing.assert_array_equal(generator.generate(prompts, seeds), first)


@pytest.mark.gpu
def test_8_bit_products_of_the_device_are_those_of_the_emulation():
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 512).cuda().bfloat16()
    x = torch.randn(64, 256, device="cuda", dtype=torch.bfloat16)
    small = Float8Linear(layer)
    native = small(x)
    small.native = False
    emulated = small(x)
    assert (native - emulated).float().norm() / emulated.float().norm() < 1e-2
