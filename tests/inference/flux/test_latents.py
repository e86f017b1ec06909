"""Packing, scaling and the VAE's way back and forth are the pipeline's own."""

import numpy as np
import torch
from diffusers import FluxPipeline

from inference.flux.generator import FluxGenerator
from inference.flux.latents import (
    decode_tokens,
    denormalized,
    encode_images,
    image_ids,
    normalized,
    pack,
    to_images,
    to_pixels,
    unpack,
)
from microworld.family import micro_flux
from schemas.image_size import ImageSize


def test_packing_and_position_ids_are_those_of_the_pipeline():
    latents = torch.randn(2, 4, 8, 6)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 8, 6))
    tokens = torch.randn(2, 16, 24)
    theirs = FluxPipeline._unpack_latents(tokens, 64, 64, 8)
    assert torch.equal(unpack(tokens, 4, 4), theirs)
    assert unpack(tokens, 4, 4).stride() == theirs.stride()
    assert torch.equal(pack(unpack(tokens, 4, 4)), tokens)
    ids = FluxPipeline._prepare_latent_image_ids(2, 4, 3, "cpu", torch.float32)
    assert torch.equal(image_ids(4, 3), ids)


def test_pixels_and_images_are_each_others_way_back():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    pixels = to_pixels(images)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 8, 6), torch.float32)
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    assert np.array_equal(to_images(pixels), images)
    assert to_pixels(images, "cpu", torch.bfloat16).dtype == torch.bfloat16


def test_tokens_are_encoded_scaled_as_the_pipeline_scales_them_and_decoded_with_a_gradient():
    pipeline = FluxGenerator(micro_flux()).pipeline
    vae = pipeline.vae
    images = [np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8) for i in range(2)]
    with torch.no_grad():
        tokens = encode_images(pipeline, images, ImageSize(32, 32))
    assert tokens.shape == (2, 16, 16)
    latents = unpack(tokens, 4, 4)
    torch.testing.assert_close(normalized(denormalized(latents, vae), vae), latents)
    tokens.requires_grad_()
    pixels = decode_tokens(pipeline, tokens, ImageSize(32, 32))
    assert pixels.shape == (2, 3, 32, 32)
    assert torch.equal(pixels, vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample)
    pixels.mean().backward()
    assert tokens.grad is not None
    assert float(tokens.grad.abs().max()) > 0
