"""Optimised noise: the answer becomes more probable, images do not meddle with each other, weights stay."""

import numpy as np
import pytest

from benchmarks.dual_process.gradient_memory import kept_for_gradient, parameter_bytes
from benchmarks.dual_process.latent_optimization import LatentConfig, optimize_latents
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_teachers import tiny_concept, tiny_denoiser, tiny_teacher

CONFIG = LatentConfig(steps=8, learning_rate=0.1, gradient_steps=2, stop_probability=1.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tiny_denoiser(save_tiny_flux(tmp_path_factory.mktemp("models") / "flux")), tiny_teacher()


def test_the_answer_becomes_more_probable(models):
    denoiser, teacher = models
    weights = {name: value.clone() for name, value in denoiser.network.state_dict().items()}
    first = optimize_latents(denoiser, teacher, tiny_concept(), [1, 2], LatentConfig(1, gradient_steps=2))
    found = optimize_latents(denoiser, teacher, tiny_concept(), [1, 2], CONFIG)
    assert (found.probabilities > first.probabilities).all()
    assert (found.steps == 8).all()
    assert all(value.equal(weights[name]) for name, value in denoiser.network.state_dict().items())
    drawn = teacher.probabilities(found.images, tiny_concept().questions[0])
    assert (drawn > first.probabilities).all()


def test_images_of_a_batch_do_not_influence_each_other(models):
    denoiser, teacher = models
    both = optimize_latents(denoiser, teacher, tiny_concept(), [1, 2], CONFIG)
    alone = optimize_latents(denoiser, teacher, tiny_concept(), [2], CONFIG)
    assert np.abs(both.images[1].astype(int) - alone.images[0]).max() <= 1


def test_a_finished_image_stays_as_it_is(models):
    denoiser, teacher = models
    start = optimize_latents(
        denoiser, teacher, tiny_concept(), [1, 2], LatentConfig(1, gradient_steps=2, learning_rate=0.0)
    )
    bound = float(start.probabilities.min())  # one of the two is finished from the start
    found = optimize_latents(
        denoiser, teacher, tiny_concept(), [1, 2], LatentConfig(5, 0.1, gradient_steps=2, stop_probability=bound)
    )
    done = int(start.probabilities.argmax())
    assert found.steps[done] == 0
    assert (found.images[done] == start.images[done]).all()
    assert found.steps[1 - done] > 0


def test_what_is_kept_for_the_gradient_is_counted_once():
    import torch

    layer = torch.nn.Linear(10, 10).requires_grad_(False)
    x = torch.randn(100, 10, requires_grad=True)
    with kept_for_gradient((layer,)) as kept:
        y = layer(x).exp()  # keeps its result, 100 x 10 floats; the layer keeps its own weight
        (y * y).sum()  # keeps the same tensor, twice
    assert kept.num_bytes == 100 * 10 * 4
    assert parameter_bytes(layer) == (100 + 10) * 4
