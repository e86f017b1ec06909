"""What `plan` says of an editor: its memory beside the generator's, or once, and every model's licence."""

import json
from dataclasses import replace

import pytest

from commands.main import main
from inference.corrector import CorrectorConfig
from inference.editors.editor import EditorCorrectorConfig
from pipelines.model_costs import draft_costs
from pipelines.pipeline_memory import diffusers_memory
from pipelines.stated_figures import CUDA_CONTEXT_GIB, GPUS
from recipes import catalogue


def memory(config) -> float:
    return diffusers_memory(config)[0] or 0.0


def costs(job, **editor):
    tools = job.tools
    if editor:
        tools = replace(tools, corrector=CorrectorConfig("editor", None, editor=EditorCorrectorConfig(**editor)))
    return draft_costs(tools.for_search(job.search, job.vlm), GPUS["h100"], job.search.strategy)


def test_one_model_that_draws_and_edits_is_counted_once():
    job = catalogue.load("flux2-klein", "search")
    alone = memory(job.tools.generator.diffusers)
    shared, own = costs(job), costs(job, model="Qwen/Qwen-Image-Edit-2511")
    assert shared.memory_gib == alone
    assert "one" in shared.memory_source
    editor = memory(EditorCorrectorConfig("Qwen/Qwen-Image-Edit-2511", dtype="bfloat16"))
    assert own.memory_gib == pytest.approx(alone + editor - CUDA_CONTEXT_GIB)
    assert "4 passes" in shared.source
    assert "100 passes" in own.source
    assert 0 < (shared.seconds or 0.0) < (own.seconds or 0.0)


def test_models_that_wait_in_main_memory_take_turns():
    job = catalogue.load("qwen-image", "search")
    found = costs(job).memory_gib or 0.0
    assert found == memory(job.tools.generator.diffusers)
    assert (costs(job, model="Qwen/Qwen-Image-Edit-2511").memory_gib or 0.0) > found + 30


def test_an_editor_of_unknown_size_makes_the_round_s_memory_unknown():
    found = costs(catalogue.load("flux", "search"), model="somebody/an-editor")
    assert (found.memory_gib, found.seconds) == (None, None)
    assert "pilot" in found.source


@pytest.mark.parametrize("preset", ["qwen-image", "flux2-klein"])
@pytest.mark.parametrize("command", [("plan",), ("plan", "search")])
def test_a_preset_fits_the_card_that_it_is_for_and_names_every_licence(preset, command, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--preset", preset, "--json"]) == 2  # the weights are not here
    plan = json.loads(capsys.readouterr().out)
    drawing = plan["stages"][0]
    assert 0 < drawing["memory_gib"] < GPUS[plan["cluster"]["gpu_type"]].memory_gib
    if plan["placement"]["schedule"] == "streaming":
        together = sum(stage["memory_gib"] or 0.0 for stage in plan["stages"])
        assert together < GPUS[plan["cluster"]["gpu_type"]].memory_gib
    licences = {model["name"]: model["licence"] for model in plan["models"]}
    assert {name for name, licence in licences.items() if "Apache" not in licence and "MIT" not in licence} == set()
    assert any("Qwen-Image" in name or "klein" in name for name in licences)


def test_licences_are_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main(["plan", "search", "--preset", "qwen-image"])
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "Qwen/Qwen-Image-Edit-2511 " in line)
    assert row.split() == ["Qwen/Qwen-Image-Edit-2511", "58", "GB", "Apache-2.0"]
