"""Editing pipelines as correctors: every class, built tiny from its real parts."""

import importlib

import numpy as np
import pytest

from inference.editors.editor import EditorCorrectorConfig
from inference.editors.editor_classes import EDITOR_CLASSES
from inference.editors.instruction import fit_longcat
from inference.generator import GeneratorConfig
from inference.generators.call_arguments import call_parameters
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from schemas.errors import InputError
from tests.support.tiny_models.editors import EDITORS, save_editor

PROMPT, REFLECTION = "a photo of a red star", "The star should be red."
MEGAPIXEL_MODULES = (
    "qwenimage.pipeline_qwenimage_edit",
    "qwenimage.pipeline_qwenimage_edit_plus",
    "longcat_image.pipeline_longcat_image_edit",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name of a class -> its folder, made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = save_editor(name, tmp_path_factory.mktemp(name) / "model")
        return str(made[name])

    return folder


@pytest.fixture
def small_megapixels(monkeypatch):
    """The classes that bring an image to a megapixel bring it to 128 x 128 px, which takes a hundredth of the time."""
    for name in MEGAPIXEL_MODULES:
        module = importlib.import_module(f"diffusers.pipelines.{name}")
        real = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, real=real: real(area / 64, ratio))


def editor(folder, **settings):
    return EditorCorrectorConfig(folder, device="cpu", dtype="float32", steps=2, **settings)


def flawed(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", EDITORS)
def test_an_image_depends_on_itself_its_instruction_and_its_seed_alone(name, folders, small_megapixels):
    corrector = editor(folders(name), batch_size=2).open(None)
    images = [flawed(64, 96), flawed(70, 50, 1), flawed(64, 96, 2)]
    said = [REFLECTION, "Add a blue ring.", ""]
    together = corrector.correct(images, [PROMPT] * 3, said, [1, 2, 3])
    assert [image.shape for image in together] == [image.shape for image in images]
    assert all(image.dtype == np.uint8 and image.std() > 1 for image in together)
    alone = corrector.correct(images[2:], [PROMPT], said[2:], [3])[0]
    assert np.array_equal(alone, together[2])
    others = {
        "seed": corrector.correct(images[2:], [PROMPT], said[2:], [4])[0],
        "instruction": corrector.correct(images[2:], [PROMPT], ["Make everything green, and much larger!"], [3])[0],
        "image": corrector.correct(images[:1], [PROMPT], said[2:], [3])[0],
    }
    assert [what for what, other in others.items() if np.array_equal(other, alone)] == []


def test_the_table_of_classes_is_what_diffusers_has():
    import diffusers

    for name, kind in EDITOR_CLASSES.items():
        takes = call_parameters(getattr(diffusers, name))
        own = kind.drawing
        assert takes["num_inference_steps"] == own.steps, name
        assert takes.get("guidance_scale") == own.guidance, name
        assert takes.get("true_cfg_scale") == own.true_cfg_scale, name
        assert takes.get("max_sequence_length") == own.text_length, name
        assert all(state in takes for state in own.text_states if state), name
        assert "image" in takes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["QwenImageEditPipeline", "QwenImageEditPlusPipeline", "LongCatImageEditPipeline"])
def test_a_megapixel_comes_back_in_the_flawed_images_size(name, folders):
    corrector = editor(folders(name)).open(None)
    image = flawed(96, 64)
    drawn = corrector.correct([image], [PROMPT], [REFLECTION], [1])
    assert drawn[0].shape == image.shape


def test_an_instruction_longer_than_the_class_reads_is_cut(folders, small_megapixels):
    corrector = editor(folders("LongCatImageEditPipeline")).open(None)
    long = "Write 'a sign that says very much' on it. " * 100
    read = fit_longcat(corrector.pipeline, long)
    assert long.startswith(read)
    assert len(read) > 300
    images = corrector.correct([flawed(64, 64)] * 2, [PROMPT] * 2, [long, read], [1, 1])
    assert np.array_equal(images[0], images[1])


def test_images_smaller_than_the_class_takes_come_back_in_their_own_size(folders):
    corrector = editor(folders("Flux2KleinPipeline")).open(None)
    image = flawed(32, 48)
    assert corrector.correct([image], [PROMPT], [REFLECTION], [1])[0].shape == image.shape


@pytest.mark.parametrize(
    ("name", "steps", "settings", "passes"),
    [
        ("FluxKontextPipeline", 28, {}, 28),
        ("FluxKontextPipeline", 28, {"true_cfg_scale": 2.0, "steps": 5}, 10),
        ("QwenImageEditPlusPipeline", 50, {}, 100),
        ("QwenImageEditPlusPipeline", 50, {"true_cfg_scale": 1.0}, 50),
        ("LongCatImageEditPipeline", 50, {}, 100),
        ("LongCatImageEditPipeline", 50, {"guidance": 1.0}, 50),
        ("Flux2KleinPipeline", 50, {}, 50),
        ("Flux2KleinPipeline", 50, {"pipeline": "Flux2KleinKVPipeline"}, 4),
        ("Flux2Pipeline", 50, {"steps": 4}, 4),
    ],
)
def test_passes_that_are_counted_are_those_of_the_network(name, steps, settings, passes, folders):
    assert EDITOR_CLASSES[name].drawing.steps == steps
    assert EditorCorrectorConfig(folders(name), **settings).passes(7) == passes


@pytest.mark.parametrize("name", ["FluxKontextPipeline", "QwenImageEditPipeline", "LongCatImageEditPipeline"])
def test_the_network_is_called_as_often_as_passes_says(name, folders, small_megapixels):
    corrector, calls = editor(folders(name)).open(None), []
    corrector.pipeline.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    corrector.correct([flawed(64, 64)], [PROMPT], [REFLECTION], [1])
    assert len(calls) == corrector.config.passes(0)


def klein(folder, **settings):
    config = DiffusersGeneratorConfig(folder, steps=2, size_px=64, device="cpu", dtype="float32", **settings)
    return GeneratorConfig("diffusers", None, diffusers=config)


@pytest.mark.parametrize("pipeline", ["", "Flux2KleinKVPipeline"])
def test_a_generator_that_edits_is_loaded_once(pipeline, folders):
    generator = klein(folders("Flux2KleinPipeline")).open()
    before = generator.generate([PROMPT], [1])[0]
    corrector = EditorCorrectorConfig(pipeline=pipeline).open(generator)
    assert corrector.pipeline.transformer is generator.pipeline.transformer
    assert corrector.pipeline.text_encoder is generator.pipeline.text_encoder
    assert type(corrector.pipeline).__name__ == (pipeline or "Flux2KleinPipeline")
    assert (corrector.config.device, corrector.config.dtype, corrector.config.steps) == ("cpu", "float32", 2)
    corrected = corrector.correct([before], [PROMPT], [REFLECTION], [1])[0]
    assert np.array_equal(generator.generate([PROMPT], [1])[0], before)
    own = editor(folders("Flux2KleinPipeline"), pipeline=pipeline).open(None)
    assert np.array_equal(own.correct([before], [PROMPT], [REFLECTION], [1])[0], corrected)


def test_the_generators_own_folder_by_name_is_loaded_once_too(folders):
    generator = klein(folders("Flux2KleinPipeline")).open()
    corrector = EditorCorrectorConfig(folders("Flux2KleinPipeline"), steps=3).open(generator)
    assert corrector.pipeline is generator.pipeline


def test_another_way_of_loading_is_another_model(folders):
    generator = klein(folders("Flux2KleinPipeline")).open()
    corrector = EditorCorrectorConfig(folders("Flux2KleinPipeline"), dtype="bfloat16").open(generator)
    assert corrector.pipeline.transformer is not generator.pipeline.transformer
    assert str(corrector.pipeline.transformer.dtype) == "torch.bfloat16"


def test_what_an_editor_cannot_be_is_said_before_anything_is_loaded(folders, tmp_path):
    generator = klein(folders("Flux2KleinPipeline")).chosen
    base = klein(str(save_base_klein(tmp_path / "base"))).chosen
    refused = {
        "corrector.editor.model": [
            lambda: EditorCorrectorConfig().beside(GeneratorConfig().chosen),
            lambda: EditorCorrectorConfig().beside(klein(str(save_flux(tmp_path / "flux"))).chosen),
            lambda: EditorCorrectorConfig(str(tmp_path / "flux")).passes(1),
        ],
        "corrector.editor.pipeline": [
            lambda: EditorCorrectorConfig(pipeline="Flux3Pipeline"),  # type: ignore[arg-type]
            lambda: EditorCorrectorConfig(folders("FluxKontextPipeline"), pipeline="LongCatImageEditPipeline").passes(
                1
            ),
            lambda: EditorCorrectorConfig(pipeline="Flux2KleinKVPipeline").beside(base),
        ],
        "corrector.editor.device": [lambda: EditorCorrectorConfig(device="cuda").beside(generator)],
        "corrector.editor.quantization": [lambda: EditorCorrectorConfig(quantization="fp8").beside(generator)],
    }
    for field, attempts in refused.items():
        for attempt in attempts:
            with pytest.raises(InputError) as caught:
                attempt()
            assert caught.value.field == field


def save_base_klein(folder):
    from tests.support.tiny_models.text_to_image import save_pipeline

    return save_pipeline("Flux2KleinPipeline", folder)


def save_flux(folder):
    from tests.support.tiny_models.text_to_image import save_pipeline

    return save_pipeline("FluxPipeline", folder)


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("Flux2KleinKVPipeline", {"guidance": 3.0}, "guidance"),
        ("LongCatImageEditPipeline", {"true_cfg_scale": 3.0}, "true_cfg_scale"),
        ("Flux2KleinPipeline", {"negative_prompt": "blur"}, "negative_prompt"),
        ("FluxKontextPipeline", {"more": '{"strength": 1}'}, "more"),
        ("FluxKontextPipeline", {"template": "caption"}, "template"),
    ],
)
def test_a_setting_that_the_class_lacks_is_refused_by_name(name, settings, field, folders):
    with pytest.raises(InputError) as caught:
        editor(folders(name), **settings).open(None)
    assert caught.value.field == field
