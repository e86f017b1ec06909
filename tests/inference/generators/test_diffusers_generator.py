"""Every class of the table, at a tiny size: the same image in any batch, and the image that the class itself draws."""

from functools import cache

import numpy as np
import pytest

from inference.generators.diffusers_generator import DiffusersGenerator, DiffusersGeneratorConfig
from inference.generators.pipeline import denoisers
from inference.generators.pipeline_classes import PIPELINE_CLASSES
from schemas.configuration import stable_seed
from schemas.image_size import ImageSize
from tests.support.tiny_models.text_to_image import PIPELINES, save_pipeline

SLOW = ("GlmImagePipeline", "HunyuanImagePipeline")  # hundreds of sampled tokens; texts of 1034 tokens
CLASSES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PIPELINES]
TEXTS = ["a red cat", 'a sign that says "cat"', "two dogs left of a blue apple", "a red cat"]
SIZES = [ImageSize(32, 32), ImageSize(32, 32), ImageSize(32, 64), ImageSize(32, 32)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Class -> its folder, made once."""
    return cache(lambda name: save_pipeline(name, tmp_path_factory.mktemp("tiny") / name))


def tiny(folder, **changes) -> DiffusersGeneratorConfig:
    settings = {"model": str(folder), "steps": 2, "size_px": 32, "dtype": "float32", "device": "cpu", "batch_size": 3}
    if PIPELINE_CLASSES[folder.name].text_length is not None:
        settings["text_length"] = 200 if folder.name == "Flux2Pipeline" else 40  # FLUX.2's says much before the text
    return DiffusersGeneratorConfig(**{**settings, **changes})


@pytest.mark.parametrize("name", CLASSES)
def test_an_image_is_the_same_alone_and_among_others(name, saved):
    generator = DiffusersGenerator(tiny(saved(name)))
    seeds = [stable_seed(i) for i in range(len(TEXTS))]
    together = generator.generate(TEXTS, seeds, SIZES)
    assert [image.shape for image in together] == [(size.height, size.width, 3) for size in SIZES]
    assert {image.dtype for image in together} == {np.dtype(np.uint8)}
    for text, seed, size, image in zip(TEXTS, seeds, SIZES, together, strict=True):
        np.testing.assert_array_equal(generator.generate([text], [seed], [size])[0], image)
    assert not np.array_equal(together[0], together[3])  # another seed
    assert not np.array_equal(together[0], generator.generate([TEXTS[1]], seeds[:1])[0])  # another text


@pytest.mark.parametrize("name", CLASSES)
def test_it_draws_what_the_class_draws_of_the_text_itself(name, saved):
    import torch

    generator = DiffusersGenerator(tiny(saved(name), batch_size=1))
    counted = count_passes(generator)
    ours = generator.generate(TEXTS[1:2], [7])[0]
    assert sum(counted) == generator.config.denoiser_passes_per_image
    own = {"true_cfg_scale": 4.0, "negative_prompt": " "} if name == "QwenImagePipeline" else {}
    own |= {"use_resolution_binning": False} if name == "SanaPipeline" else {}
    own |= {"max_sequence_length": generator.config.text_length} if generator.config.text_length else {}
    theirs = generator.pipeline(
        prompt=TEXTS[1:2],
        height=32,
        width=32,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(7)],
        output_type="np",
        **own,
    ).images[0]
    np.testing.assert_array_equal(ours, (theirs * 255).round().astype(np.uint8))


def count_passes(generator) -> list[int]:
    """How many images each call of the denoiser is for, in a list that grows."""
    counted: list[int] = []

    def count(module, args, kwargs):
        first = next(
            (kwargs[name] for name in ("hidden_states", "sample", "x") if name in kwargs), args[0] if args else None
        )
        counted.append(len(first))

    for denoiser in denoisers(generator.pipeline):
        denoiser.register_forward_pre_hook(count, with_kwargs=True)
    return counted
