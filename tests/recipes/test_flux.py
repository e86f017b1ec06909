"""The flux preset is what the papers used, and refuses to start without its weights."""

from dataclasses import replace

from inference.vlm.prompts import load_prompt
from pipelines.jobs import models_of, templates_of
from recipes import catalogue


def test_the_flux_preset_is_flux_dev_with_the_authors_detector():
    dataset = catalogue.load("flux", "dataset")
    generator = dataset.generate.generator.flux
    assert (generator.size_px, generator.num_steps, generator.guidance) == (1024, 30, 3.5)
    assert generator.denoiser_passes_per_image == 30
    assert generator.dtype == "bfloat16"
    assert dataset.ground.grounded_sam.detector.dino.backend == "groundingdino-py"
    assert models_of(dataset) == (
        "black-forest-labs/FLUX.1-dev",
        "groundingdino_swint_ogc.pth",
        "google-bert/bert-base-uncased",
        "sam_vit_h_4b8939.pth",
        "openai/clip-vit-large-patch14",
    )
    assert dataset.ground.grounded_sam.color.kind == "clip"


def test_the_flux_preset_names_the_published_rewards_and_one_vlm_for_the_other_subsets():
    config = catalogue.load("flux", "dataset")
    config = replace(config, subsets=("rule", "general", "length", "editing"), annotate=True)
    named = models_of(config)
    assert {"yuvalkirstain/PickScore_v1", "HPS_v2.1_compressed.pt", "openai/clip-vit-large-patch14"} <= set(named)
    assert [name for name in named if "Qwen" in name] == ["Qwen/Qwen2.5-VL-7B-Instruct"]
    assert not [name for name in named if name.startswith("micro/")]
    assert set(templates_of(config)) == {"condense", "caption", "compare", "verify"}
    for name in templates_of(config):
        assert load_prompt(name)


def test_missing_weights_end_a_run_before_there_is_a_folder(tmp_path, monkeypatch, capsys):
    from commands.main import main

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--run", str(tmp_path / "run"), "--preset", "flux"]) == 2
    assert not (tmp_path / "run").exists()
    message = capsys.readouterr().err
    for word in (
        "5 models",
        "FLUX.1-dev",
        "34 GB",
        "non-commercial",
        "hf download black-forest-labs/FLUX.1-dev",
        "groundingdino_swint_ogc.pth",
        "bert-base-uncased",
        "sam_vit_h_4b8939.pth' (2.6 GB; licence: Apache-2.0)",
        "dl.fbaipublicfiles.com",
        "hf download openai/clip-vit-large-patch14",
    ):
        assert word in message
