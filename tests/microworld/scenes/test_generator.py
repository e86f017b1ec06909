"""FluxGenerator with the micro FLUX that ships: what an image depends on."""

from dataclasses import replace

import numpy as np
import pytest

from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from microworld.family import micro_flux
from schemas.errors import InputError, MissingWeightsError

CIRCLE, STAR, RINGS = "a photo of a red circle", "a photo of a star", "a photo of two rings"
CONFIG = micro_flux(num_steps=3, batch_size=4)


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(CONFIG)


def test_an_image_does_not_depend_on_the_other_prompts_or_its_place_in_the_batch(generator):
    alone = generator.generate([CIRCLE], [5])[0]
    first = generator.generate([CIRCLE, STAR, RINGS, STAR], [5, 1, 2, 3])[0]
    last = generator.generate([STAR, RINGS, RINGS, CIRCLE, STAR], [8, 9, 10, 5, 12])[3]
    assert alone.shape == (32, 32, 3)
    assert alone.dtype == np.uint8
    assert (alone == first).all()
    assert (alone == last).all()


def test_seed_and_prompt_both_matter(generator):
    same, again, other_seed, other_prompt = generator.generate([CIRCLE, CIRCLE, CIRCLE, STAR], [5, 5, 6, 5])
    assert (same == again).all()
    assert (same != other_seed).any()
    assert (same != other_prompt).any()


def test_every_prompt_gets_its_image_in_order_over_several_batches(generator):
    prompts = [CIRCLE, STAR, RINGS] * 3
    seeds = list(range(9))
    together = generator.generate(prompts, seeds)
    assert len(together) == 9
    for index in (0, 4, 8):
        assert (generator.generate([prompts[index]], [seeds[index]])[0] == together[index]).all()


def test_no_prompts_give_no_images(generator):
    assert generator.generate([], []) == []


def test_seeds_of_64_bits_are_accepted(generator):
    assert len(generator.generate([STAR], [2**64 - 1])) == 1


def test_one_seed_for_each_prompt(generator):
    with pytest.raises(InputError, match="2 prompts but 1 seeds"):
        generator.generate([CIRCLE, STAR], [1])


def test_missing_weights_are_told_before_anything_is_loaded():
    with pytest.raises(MissingWeightsError, match="nowhere/flux"):
        FluxGenerator(replace(CONFIG, model="nowhere/flux"))


def test_denoiser_passes_count_both_halves_of_true_guidance():
    assert micro_flux(num_steps=8, true_cfg_scale=2.0).denoiser_passes_per_image == 16
    assert FluxGeneratorConfig().denoiser_passes_per_image == 30
