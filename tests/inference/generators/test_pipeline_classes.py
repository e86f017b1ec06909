"""What is said of classes without importing diffusers, held against the installed ones."""

import inspect
import json
import subprocess
import sys

import pytest

from inference.generators.call_arguments import call_parameters
from inference.generators.diffusers_generator import DiffusersGeneratorConfig, read_class
from inference.generators.pipeline_classes import PIPELINE_CLASSES, planned_pipeline
from schemas.errors import InputError


@pytest.mark.parametrize("name", PIPELINE_CLASSES)
def test_the_table_says_what_the_installed_class_says(name):
    import diffusers

    known, found = PIPELINE_CLASSES[name], getattr(diffusers, name)
    takes = call_parameters(found)
    assert known.steps == takes["num_inference_steps"]
    assert known.guidance == takes.get("guidance_scale")
    assert known.true_cfg_scale == takes.get("true_cfg_scale")
    assert known.text_length == takes.get("max_sequence_length")
    assert {name for name in known.text_states if name} <= set(takes)
    read = read_class(name)  # as it would be without the table
    assert (read.steps, read.guidance, read.true_cfg_scale, read.text_length) == (
        known.steps,
        known.guidance,
        known.true_cfg_scale,
        known.text_length,
    )
    assert read.alone
    if known.text_states:
        assert "prompt" in inspect.signature(found.encode_prompt).parameters
    assert known.text_states or known.alone


def test_plans_and_counts_import_no_diffusers():
    code = (
        "import sys; from inference.generator import GeneratorConfig;"
        "from inference.generators.diffusers_generator import DiffusersGeneratorConfig as D;"
        "g = GeneratorConfig('diffusers', diffusers=D('Qwen/Qwen-Image'));"
        "print(g.num_steps, g.denoiser_passes_per_image, [m for m in ('torch', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "50 100 []"


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        (DiffusersGeneratorConfig("black-forest-labs/FLUX.1-dev"), 28),
        (DiffusersGeneratorConfig("black-forest-labs/FLUX.1-dev", true_cfg_scale=2.0), 56),
        (DiffusersGeneratorConfig("black-forest-labs/FLUX.2-klein-4B", steps=4), 4),
        (DiffusersGeneratorConfig("black-forest-labs/FLUX.2-dev"), 50),
        (DiffusersGeneratorConfig("Qwen/Qwen-Image", true_cfg_scale=1.0), 50),
        (DiffusersGeneratorConfig("Tongyi-MAI/Z-Image-Turbo", steps=8, guidance=0.0), 8),
        (DiffusersGeneratorConfig("Tongyi-MAI/Z-Image", guidance=0.5), 100),
        (DiffusersGeneratorConfig("stabilityai/stable-diffusion-3.5-large"), 56),
        (DiffusersGeneratorConfig("stabilityai/stable-diffusion-xl-base-1.0", steps=1, guidance=1.0), 1),
    ],
)
def test_passes_by_hub_id_and_settings(config, passes):
    assert config.denoiser_passes_per_image == passes


def test_a_folder_says_of_itself_what_no_class_knows(tmp_path):
    def folder(name, **said):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps(said))
        return str(tmp_path / name)

    klein = {"_class_name": "Flux2KleinPipeline"}
    assert DiffusersGeneratorConfig(folder("base", **klein), steps=2).denoiser_passes_per_image == 4
    assert DiffusersGeneratorConfig(folder("few", **klein, is_distilled=True), steps=2).denoiser_passes_per_image == 2
    hunyuan = {"_class_name": "HunyuanImagePipeline"}
    assert DiffusersGeneratorConfig(folder("plain", **hunyuan, guider=[None, None])).denoiser_passes_per_image == 50
    guided = folder("guided", **hunyuan, guider=["diffusers", "AdaptiveProjectedMixGuidance"])
    assert DiffusersGeneratorConfig(guided).denoiser_passes_per_image == 100
    unlisted = DiffusersGeneratorConfig(folder("unlisted", _class_name="PixArtSigmaPipeline"))
    assert (unlisted.num_steps, unlisted.denoiser_passes_per_image) == (20, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "is no folder of a pipeline"),
        ("{", "does not read"),
        ("[]", "no object"),
        ("{}", "names no class"),
        ('{"_class_name": ["pipeline", "MyPipeline"]}', "code of its own"),
        ('{"_class_name": "NoSuchPipeline"}', "has no pipeline NoSuchPipeline"),
        ('{"_class_name": "FluxTransformer2DModel"}', "has no pipeline FluxTransformer2DModel"),
    ],
)
def test_folders_that_are_no_pipelines_are_refused_by_name(text, expected, tmp_path):
    if text is not None:
        (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(InputError, match=expected):
        DiffusersGeneratorConfig(str(tmp_path)).open()


def test_what_is_nowhere_is_not_known_and_no_name_is_refused():
    assert planned_pipeline("else/where").class_name is None
    with pytest.raises(InputError, match="not known before it is here"):
        _ = DiffusersGeneratorConfig("else/where").num_steps
    with pytest.raises(InputError, match="no model is named"):
        _ = DiffusersGeneratorConfig().num_steps
