"""Every class of the table, at a tiny size: the same image in any batch, and the image that the class itself draws."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from inference.flux.lora import WEIGHTS
from inference.generators.diffusers_generator import DiffusersGenerator, DiffusersGeneratorConfig
from inference.generators.pipeline import compile_blocks, denoisers
from inference.generators.pipeline_classes import PIPELINE_CLASSES
from schemas.configuration import stable_seed
from schemas.errors import CorruptDataError, InputError
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
        first: Any = next(
            (kwargs[name] for name in ("hidden_states", "sample", "x") if name in kwargs), args[0] if args else None
        )
        counted.append(len(first))

    for denoiser in denoisers(generator.pipeline):
        denoiser.register_forward_pre_hook(count, with_kwargs=True)
    return counted


@pytest.mark.parametrize(
    ("name", "changes", "field", "said"),
    [
        ("QwenImagePipeline", {"guidance": 3.0}, "guidance", "no embedding of guidance"),
        ("QwenImagePipeline", {"true_cfg_scale": 1.0, "negative_prompt": "blur"}, "true_cfg_scale", "without true"),
        ("ZImagePipeline", {"true_cfg_scale": 2.0}, "true_cfg_scale", "guided by guidance_scale"),
        ("ZImagePipeline", {"guidance": 0.0, "negative_prompt": "blur"}, "guidance", "without guidance"),
        ("StableDiffusionXLPipeline", {"text_length": 40}, "text_length", "takes no max_sequence_length"),
        ("Flux2KleinPipeline", {"negative_prompt": "blur"}, "negative_prompt", "takes no negative_prompt"),
        ("SanaPipeline", {"guidance": -1.0}, "guidance", "is no guidance"),
        ("SanaPipeline", {"steps": -1}, "steps", "-1 steps"),
        ("SanaPipeline", {"more": '{"cfg_normalization": true}'}, "more", "takes no cfg_normalization"),
        ("SanaPipeline", {"more": '{"guidance_scale": 1}'}, "more", "the field guidance"),
        ("SanaPipeline", {"more": '{"latents": 1}'}, "more", "not said here"),
        ("SanaPipeline", {"more": '{"prompt_embeds": 1}'}, "more", "not said here"),
        ("SanaPipeline", {"more": "[1]"}, "more", "is no object"),
        ("SanaPipeline", {"more": "{"}, "more", "does not read"),
        ("SanaPipeline", {"size_px": 33}, "size_px", "cannot draw 33x33"),
        ("SanaPipeline", {"batch_size": 0}, "batch_size", "batches of 0"),
        ("SanaPipeline", {"offload": "model"}, "offload", "on the CPU"),
        ("SanaPipeline", {"compile": "blocks", "quantization": "fp8"}, "compile", "quantization 'fp8'"),
        ("SanaPipeline", {"lora": "x", "quantization": "int4"}, "quantization", "a LoRA on int4"),
    ],
)
def test_a_setting_that_the_class_lacks_or_would_pass_over_is_refused_by_name(name, changes, field, said, saved):
    with pytest.raises(InputError) as caught:
        DiffusersGenerator(tiny(saved(name), **changes))
    assert caught.value.field == field
    assert said in str(caught.value)


def test_hunyuan_image_is_told_where_its_guidance_is(saved):
    for field in ("guidance", "true_cfg_scale"):
        with pytest.raises(InputError, match="that of its folder's guider"):
            DiffusersGenerator(tiny(saved("HunyuanImagePipeline"), **{field: 3.0}))


def test_true_guidance_brings_its_negative_prompt_along(saved):
    def drawn(**changes):
        return DiffusersGenerator(tiny(saved("QwenImagePipeline"), **changes)).generate(["a red cat"], [1])[0]

    assert not np.array_equal(drawn(), drawn(true_cfg_scale=1.0))  # 4 by default, and not switched off
    np.testing.assert_array_equal(drawn(), drawn(true_cfg_scale=4.0, negative_prompt=" "))
    assert not np.array_equal(drawn(), drawn(negative_prompt="a blue dog"))


def test_sizes_are_checked_before_anything_is_drawn(saved):
    generator = DiffusersGenerator(tiny(saved("StableDiffusion3Pipeline")))
    drawn = generator.draw(["a", "b"], [0, 1], [ImageSize(32, 32), ImageSize(32, 34)])
    with pytest.raises(InputError, match="cannot draw 32x34"):
        next(drawn)
    with pytest.raises(InputError, match="2 prompts, 1 seeds"):
        generator.generate(["a", "b"], [0])


@pytest.mark.parametrize(
    ("name", "multiple"), [("ZImagePipeline", 4), ("StableDiffusion3Pipeline", 4), ("Krea2Pipeline", 8)]
)
def test_sides_are_multiples_of_what_the_class_takes(name, multiple, saved):
    generator = DiffusersGenerator(tiny(saved(name)))
    assert generator.size_multiple == multiple
    size = ImageSize(32 + multiple, 32)
    assert generator.generate(["a red cat"], [0], [size])[0].shape == (32, 32 + multiple, 3)


def test_images_that_are_no_numbers_are_refused(saved):
    import torch

    generator = DiffusersGenerator(tiny(saved("ZImagePipeline")))
    with torch.no_grad():
        next(generator.pipeline.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(CorruptDataError, match="no numbers"):
        generator.generate(["a red cat"], [0])


def test_a_class_that_is_not_in_the_table_draws_one_image_at_a_time(saved, monkeypatch, caplog):
    expected = DiffusersGenerator(tiny(saved("ZImagePipeline"))).generate(TEXTS[:2], [1, 2])
    config = tiny(saved("ZImagePipeline"))
    monkeypatch.delitem(PIPELINE_CLASSES, "ZImagePipeline")
    generator = DiffusersGenerator(config)
    assert "one image at a time" in caplog.text
    for one, other in zip(generator.generate(TEXTS[:2], [1, 2]), expected, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1  # another batch: other rounding
    np.testing.assert_array_equal(generator.generate(TEXTS[1:2], [2])[0], generator.generate(TEXTS[:2], [1, 2])[1])
    assert config.denoiser_passes_per_image == 4


def test_texts_are_encoded_once(saved):
    generator = DiffusersGenerator(tiny(saved("StableDiffusionXLPipeline")))
    asked: list[str] = []
    encode = generator.pipeline.encode_prompt
    generator.pipeline.encode_prompt = lambda prompt, **others: asked.extend(prompt or ()) or encode(prompt, **others)
    first = generator.generate(["a red cat", "a dog", "a red cat"], [0, 1, 2])
    assert sorted(asked) == ["a dog", "a red cat"]
    np.testing.assert_array_equal(generator.generate(["a dog"], [1])[0], first[1])
    assert len(asked) == 2


LORA_LAYERS = {
    "Flux2KleinPipeline": "transformer.single_transformer_blocks.0.attn.to_out",
    "QwenImagePipeline": "transformer.transformer_blocks.0.attn.to_q",
    "ZImagePipeline": "transformer.layers.0.attention.to_q",
    "StableDiffusion3Pipeline": "transformer.transformer_blocks.0.attn.to_q",
    "SanaPipeline": "transformer.transformer_blocks.0.attn2.to_q",
    "StableDiffusionXLPipeline": "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "Krea2Pipeline": "transformer.transformer_blocks.0.attn.to_q",
}


def save_lora(folder, pipeline, layer, rank=2):
    import torch
    from safetensors.torch import save_file

    component, _, inner = layer.partition(".")
    out_features, in_features = getattr(pipeline, component).get_submodule(inner).weight.shape
    folder.mkdir()
    down, up = torch.randn(rank, in_features), torch.randn(out_features, rank)
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, folder / WEIGHTS)
    return up @ down


@pytest.mark.parametrize("name", LORA_LAYERS)
def test_a_lora_is_added_whole_to_the_weights_of_any_class_that_takes_one(name, saved, tmp_path):
    import torch

    layer = LORA_LAYERS[name]
    component, _, inner = layer.partition(".")
    plain = DiffusersGenerator(tiny(saved(name))).pipeline
    added = save_lora(tmp_path / "lora", plain, layer)
    taught = DiffusersGenerator(tiny(saved(name), lora=str(tmp_path / "lora"))).pipeline
    weights = [getattr(one, component).get_submodule(inner).weight for one in (taught, plain)]
    torch.testing.assert_close(weights[0] - weights[1], added, rtol=1e-4, atol=1e-4)


def test_a_lora_that_has_no_place_or_no_class_is_refused(saved, tmp_path):
    plain = DiffusersGenerator(tiny(saved("ZImagePipeline"))).pipeline
    save_lora(tmp_path / "lora", plain, LORA_LAYERS["ZImagePipeline"])
    for name, said in (("SanaPipeline", "has no place"), ("OvisImagePipeline", "takes no LoRA")):
        with pytest.raises(InputError, match=said):
            DiffusersGenerator(tiny(saved(name), lora=str(tmp_path / "lora")))


def test_compiled_blocks_draw_the_same_and_fp8_nearly(saved):
    config = tiny(saved("ZImagePipeline"))
    generator = DiffusersGenerator(config)
    plain = generator.generate(TEXTS[:1], [1])[0]
    compile_blocks(generator.pipeline, backend="eager")
    np.testing.assert_array_equal(generator.generate(TEXTS[:1], [1])[0], plain)
    in_8_bits = DiffusersGenerator(replace(config, quantization="fp8"))
    (denoiser,) = denoisers(in_8_bits.pipeline)
    assert "torch.float8_e4m3fn" in {str(parameter.dtype) for parameter in denoiser.parameters()}
    apart = np.abs(in_8_bits.generate(TEXTS[:1], [1])[0].astype(int) - plain)
    assert 0 < apart.max() < 64


def test_the_vae_decodes_in_tiles_where_it_can(saved):
    tiled = DiffusersGenerator(tiny(saved("ZImagePipeline"), vae_tiling=True))
    assert tiled.pipeline.vae.use_tiling
    assert tiled.generate(TEXTS[:1], [1])[0].shape == (32, 32, 3)
