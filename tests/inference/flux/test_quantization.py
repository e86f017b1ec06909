"""What the flux-24gb preset adds to the generator: fp8 weights; int8 and offloading refused where they cannot be."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from microworld.family import micro_flux
from schemas.errors import InputError
from tests.support.tiny_models import save_tiny_flux


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> FluxGeneratorConfig:
    folder = save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")
    return micro_flux(model=str(folder), num_steps=2, true_cfg_scale=1.0, batch_size=1)


def test_fp8_keeps_weights_in_one_byte_and_draws_nearly_the_same(config):
    import torch

    full = FluxGenerator(config)
    small = FluxGenerator(replace(config, quantization="fp8"))
    block = small.pipeline.transformer.transformer_blocks[0]
    assert block.ff.net[2].weight.dtype == torch.float8_e4m3fn
    assert full.pipeline.transformer.transformer_blocks[0].ff.net[2].weight.dtype == torch.float32
    (image,) = full.generate(["a red circle"], [1])
    (again,) = full.generate(["a red circle"], [1])
    (coarse,) = small.generate(["a red circle"], [1])
    np.testing.assert_array_equal(image, again)
    difference = np.abs(image.astype(int) - coarse.astype(int))
    assert difference.max() > 0
    assert difference.mean() < 16


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_int8_without_bitsandbytes_says_what_to_install(config):
    with pytest.raises(InputError, match="bitsandbytes"):
        FluxGenerator(replace(config, quantization="int8"))


def test_offloading_needs_a_gpu_and_whole_layers(config):
    with pytest.raises(InputError, match="on the CPU"):
        FluxGenerator(replace(config, offload="model"))
    with pytest.raises(InputError, match="layer by layer"):
        FluxGenerator(replace(config, offload="sequential", quantization="fp8", device="cuda"))
