"""The corrector on the shipped micro FLUX: what an image depends on, and the pipeline's own without a condition."""

import numpy as np
import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, condition_ids, place_condition
from inference.flux.corrector import (
    CorrectorDescription,
    FluxCorrector,
    FluxCorrectorConfig,
    corrector_text,
    read_description,
    sample,
    save_corrector,
)
from inference.flux.generator import FluxGenerator
from inference.flux.latents import decode_latents, encode_images
from microworld.family import micro_flux
from schemas.errors import InputError
from schemas.image_size import ImageSize

STAR, RINGS = "a photo of a red star", "a photo of two rings"
CONFIG = micro_flux(num_steps=3, batch_size=4)
SQUARE = ImageSize(32, 32)
FLAWED = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(CONFIG)


@pytest.fixture(scope="module", params=["joint", "cached"])
def folder(request, generator, tmp_path_factory):
    """A saved corrector with a LoRA that adds something."""
    condition = ConditionConfig(request.param, rank=4, alpha=4.0)
    model = ConditionedFlux(generator.pipeline.transformer, condition)
    torch.manual_seed(0)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("corrector")
    save_corrector(path, model, CorrectorDescription(condition, 32, "micro/flux"))
    return path


@pytest.fixture(scope="module")
def corrector(folder, generator):
    return FluxCorrector(FluxCorrectorConfig(str(folder)), generator)


def test_without_a_condition_the_loop_is_the_pipeline_bit_for_bit(generator):
    model = ConditionedFlux(generator.pipeline.transformer, ConditionConfig(rank=4, alpha=4.0))
    texts = [generator.encode_text(text, 16) for text in (STAR, RINGS, STAR, RINGS)]
    embeds, pooled = (torch.cat([text[i] for text in texts]) for i in (0, 1))
    with torch.no_grad():
        latents = sample(model, generator.pipeline, CONFIG, embeds, pooled, None, None, [1, 2, 3, 4], SQUARE)
        decoded = decode_latents(generator.pipeline, latents, SQUARE)
    theirs = generator.pipeline(
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        num_inference_steps=CONFIG.num_steps,
        guidance_scale=CONFIG.guidance,
        height=32,
        width=32,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (1, 2, 3, 4)],
        output_type="latent",
    ).images
    assert torch.equal(latents, theirs)
    images = (decoded * 255).round().astype(np.uint8)
    expected = np.stack(generator.generate([STAR, RINGS, STAR, RINGS], [1, 2, 3, 4]))
    assert np.array_equal(images, expected)


def test_an_image_depends_on_all_that_is_given_and_on_nothing_else(corrector):
    told = "Make the star red."
    first, again, other_image, other_told, other_seed = corrector.correct(
        [FLAWED, FLAWED, FLAWED[::-1], FLAWED, FLAWED],
        [STAR] * 5,
        [told, told, told, "Add a ring.", told],
        [1, 1, 1, 1, 2],
    )
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    for other in (other_image, other_told, other_seed):
        assert (first != other).any()
    assert (corrector.correct([FLAWED], [STAR], [told], [1])[0] == first).all()


def test_texts_of_other_lengths_are_drawn_in_batches_of_their_own_and_come_in_order(corrector):
    told = ["", "Replace the blue star by a red star and move it to the left of the green ring.", "Add a star."]
    together = corrector.correct([FLAWED] * 6, [STAR] * 6, told * 2, list(range(6)))
    for index in (1, 4, 5):
        assert (corrector.correct([FLAWED], [STAR], [(told * 2)[index]], [index])[0] == together[index]).all()


def test_a_saved_corrector_is_read_back_as_it_was(folder, corrector):
    assert read_description(folder) == corrector.description
    assert {p.name for p in folder.iterdir()} == {"pytorch_lora_weights.safetensors", "corrector.json"}


def test_t5_reads_the_reflection_and_clip_the_prompt_alone(generator):
    assert corrector_text(STAR, "Add a ring.") == f"{STAR} [Reflexion] Add a ring."
    assert corrector_text(STAR, "no") == STAR
    embeds, pooled = generator.encode_text(corrector_text(STAR, "Add a ring."), 16, clip_text=STAR)
    assert torch.equal(pooled, generator.encode_text(STAR, 16)[1])
    assert not torch.equal(embeds, generator.encode_text(STAR, 16)[0])


def test_the_condition_is_resized_and_lies_left_by_its_own_width(generator):
    with torch.no_grad():
        packed = encode_images(generator.pipeline, [FLAWED, FLAWED], ImageSize(16, 16))
    assert packed.shape == (2, 4, 16)
    assert place_condition(ConditionConfig(), (2, 2), (4, 4))[:, 2].tolist() == [-2, -1, -2, -1]


def test_the_condition_may_lie_over_the_image():
    over = ConditionConfig(position="over")
    assert torch.equal(place_condition(over, (4, 4), (4, 4)), condition_ids(4, 4, 0))
    assert place_condition(over, (2, 2), (4, 4))[:, 1:].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]


def test_bad_input_is_told(corrector, generator, tmp_path):
    with pytest.raises(InputError, match="1 images, 2 prompts"):
        corrector.correct([FLAWED], [STAR, STAR], [""], [1])
    with pytest.raises(InputError, match="is no corrector"):
        FluxCorrector(FluxCorrectorConfig(str(tmp_path)), generator)
