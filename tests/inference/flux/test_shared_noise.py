"""Images of one prompt that have part of their noise in common, so that they are more alike."""

from dataclasses import replace

import numpy as np
import pytest

from inference.flux.generator import FluxGenerator
from inference.flux.latents import partly_shared_noise
from inference.likeness.pixels import PixelLikenessConfig
from microworld.family import micro_flux
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.image_size import ImageSize

STAR, RINGS = "a photo of a red star", "a photo of two rings"
CONFIG = micro_flux(num_steps=2, batch_size=3)


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(CONFIG)


def sharing(generator, share):
    """The same generator with another share: it is read anew for each batch."""
    generator.config = replace(CONFIG, shared_noise=share)
    return generator


def test_noise_is_normal_and_correlates_by_its_share(generator):
    prompts = [STAR, STAR, RINGS] * 8
    noise = partly_shared_noise(generator.pipeline, prompts, range(24), ImageSize(128, 128), 0.75)
    correlation = np.corrcoef(noise.flatten(1).numpy())
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert correlation[0, 1] == pytest.approx(0.75, abs=0.06)
    assert correlation[2, 5] == pytest.approx(0.75, abs=0.06)
    assert correlation[0, 2] == pytest.approx(0, abs=0.1)


def test_images_of_a_prompt_are_the_more_alike_the_more_they_share(generator):
    def mean_likeness(share):
        images = sharing(generator, share).generate([STAR] * 4, range(4))
        return PixelLikenessConfig().open().between(images)[np.triu_indices(4, 1)].mean()

    likeness = [mean_likeness(share) for share in (0.0, 0.8, 1.0)]
    assert likeness[0] < likeness[1] < likeness[2] == 1


def test_an_image_depends_on_its_prompt_and_seed_alone(generator):
    together = sharing(generator, 0.5).generate([STAR, RINGS, STAR, STAR], [0, 1, 2, 3])
    assert np.array_equal(generator.generate([STAR], [2])[0], together[2])
    assert not np.array_equal(together[0], together[2])


def test_without_a_share_keys_are_what_they_were():
    assert "shared_noise" not in output_config(CONFIG, {})
    assert output_config(replace(CONFIG, shared_noise=0.5), {})["shared_noise"] == 0.5


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="shared_noise"):
        FluxGenerator(replace(CONFIG, shared_noise=share))
