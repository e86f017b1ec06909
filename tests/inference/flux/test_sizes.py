"""Images that are not square: drawn, corrected and shown at their own aspect, alone as in any batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux, place_condition
from inference.flux.corrector import CorrectorDescription, FluxCorrector, FluxCorrectorConfig, save_corrector
from inference.flux.generator import FluxGenerator
from inference.flux.latents import (
    condition_size,
    decode_latents,
    drawable,
    encode_images,
    pack,
    token_grid,
    unpack,
)
from microworld.family import micro_flux
from schemas.errors import InputError
from schemas.image_size import ImageSize

STAR, RINGS = "a photo of a red star", "a photo of two rings"
WIDE, TALL, SQUARE = ImageSize(40, 24), ImageSize(24, 40), ImageSize(32, 32)


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(micro_flux(num_steps=2, batch_size=3))


@pytest.fixture(scope="module", params=["joint", "cached", "over"])
def corrector(request, generator, tmp_path_factory):
    """With a LoRA that adds something."""
    if request.param == "over":
        condition = ConditionConfig("cached", position="over", rank=4, alpha=4.0)
    else:
        condition = ConditionConfig(request.param, rank=4, alpha=4.0)
    model = ConditionedFlux(generator.pipeline.transformer, condition)
    torch.manual_seed(0)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("corrector")
    save_corrector(folder, model, CorrectorDescription(condition, 32, "micro/flux"))
    return FluxCorrector(FluxCorrectorConfig(str(folder)), generator)


def test_an_image_is_the_same_alone_and_in_a_batch_of_mixed_sizes(generator):
    sizes = [WIDE, SQUARE, TALL, WIDE, TALL, SQUARE, WIDE]
    prompts, seeds = [STAR, RINGS] * 3 + [STAR], list(range(7))
    together = generator.generate(prompts, seeds, sizes)
    assert [image.shape[1::-1] for image in together] == [(size.width, size.height) for size in sizes]
    for number in (0, 2, 5, 6):
        alone = generator.generate([prompts[number]], [seeds[number]], [sizes[number]])
        assert np.array_equal(alone[0], together[number])
    assert np.array_equal(generator.generate([RINGS], [5])[0], together[5])


def test_it_draws_what_the_pipeline_draws_at_that_size(generator):
    embeds, pooled = generator.encode_text(STAR, generator.text_length(STAR))
    theirs = generator.pipeline(
        prompt_embeds=embeds.expand(3, -1, -1),
        pooled_prompt_embeds=pooled.expand(3, -1),
        num_inference_steps=2,
        guidance_scale=generator.config.guidance,
        height=24,
        width=40,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (1, 2, 3)],
        output_type="np",
    ).images
    ours = np.stack(generator.generate([STAR] * 3, [1, 2, 3], [WIDE] * 3))
    assert np.array_equal(ours, (theirs * 255).round().astype(np.uint8))


def test_a_size_that_is_no_whole_number_of_tokens_is_refused_with_the_nearest_ones(generator):
    for refused in (
        lambda: generator.generate([STAR], [1], [ImageSize(36, 24)]),
        lambda: generator.warm_up([WIDE, ImageSize(36, 24)]),
    ):
        with pytest.raises(InputError, match=r"36x24 px: [^\n]* multiples of 8\n.*\n.*32x24 or 40x24"):
            refused()
    with pytest.raises(InputError, match="expected: 8x8"):
        generator.generate([STAR], [1], [ImageSize(3, 8)])
    with pytest.raises(InputError, match="2 prompts but 1 sizes"):
        generator.generate([STAR, STAR], [1, 2], [WIDE])
    with pytest.raises(InputError, match=r"33x33 px[^\n]*\n  field: size_px"):
        FluxGenerator(replace(generator.config, size_px=33))


def test_a_compiled_generator_is_warmed_up_for_each_size_and_length(generator, monkeypatch):
    drawn = []
    monkeypatch.setattr(generator, "config", replace(generator.config, compile="blocks"))
    monkeypatch.setattr(
        generator, "_draw", lambda texts, prompts, seeds, negative, size: drawn.append((texts[0][0].shape[1], size))
    )
    generator.warm_up([WIDE, TALL, WIDE])
    assert drawn == [(length, size) for length in generator.config.text_lengths for size in (WIDE, TALL)]


def test_a_corrected_image_has_the_flawed_ones_size_and_is_the_same_alone_and_in_a_mixed_batch(corrector):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (size.height, size.width, 3), np.uint8) for size in (WIDE, TALL, SQUARE, WIDE)]
    told = ["Make the star red.", "", "Add a ring.", "Add a ring."]
    together = corrector.correct(images, [STAR] * 4, told, [1, 2, 3, 4])
    assert [image.shape for image in together] == [image.shape for image in images]
    for number in range(4):
        alone = corrector.correct(images[number : number + 1], [STAR], told[number : number + 1], [number + 1])
        assert np.array_equal(alone[0], together[number])
    other = corrector.correct([images[0][:, ::-1].copy()], [STAR], [told[0]], [1])[0]
    assert not np.array_equal(other, together[0])


def test_a_flawed_image_of_any_size_is_drawn_at_the_nearest_smaller_one(corrector):
    image = np.zeros((27, 45, 3), np.uint8)
    assert corrector.correct([image], [STAR], ["Add a ring."], [1])[0].shape == (24, 40, 3)
    assert corrector.correct([image[:5]], [STAR], ["Add a ring."], [1])[0].shape == (8, 40, 3)


def test_the_condition_has_the_images_aspect_and_about_as_many_tokens():
    assert condition_size(ImageSize(64, 64), 32, 8) == ImageSize(32, 32)
    assert condition_size(ImageSize(640, 640), 33, 8) == ImageSize(33, 33)
    for width, height in ((1152, 896), (896, 1152), (1344, 768), (704, 1408), (2048, 512)):
        shown = condition_size(ImageSize(width, height), 512, 8)
        assert shown.width / shown.height == pytest.approx(width / height, rel=0.04)
        assert shown.pixels == pytest.approx(512 * 512, rel=0.04)
    assert condition_size(ImageSize(400, 8), 32, 8) == ImageSize(224, 8)
    assert drawable(ImageSize(47, 7), 8) == ImageSize(40, 8)


def test_latents_and_positions_are_rows_by_columns(generator):
    pipeline = generator.pipeline
    image = np.random.default_rng(1).integers(0, 255, (24, 40, 3), np.uint8)
    with torch.no_grad():
        tokens = encode_images(pipeline, [image], WIDE)
        assert tokens.shape == (1, 15, 16)
        assert token_grid(pipeline, WIDE) == (3, 5)
        assert torch.equal(pack(unpack(tokens, 3, 5)), tokens)
        assert decode_latents(pipeline, tokens, WIDE).shape == (1, 24, 40, 3)
    left = place_condition(ConditionConfig(), (2, 3), (4, 6))
    assert left[:, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert left[:, 2].tolist() == [-3, -2, -1] * 2
    over = place_condition(ConditionConfig(position="over"), (2, 3), (4, 9))
    assert over[:, 1].tolist() == [0.5] * 3 + [2.5] * 3
    assert over[:, 2].tolist() == [1, 4, 7] * 2
