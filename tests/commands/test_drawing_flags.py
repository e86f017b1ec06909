"""The command on a concept's card draws with what the concept was taught with."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from commands.arguments import parse_with_preset
from commands.distill import default_arguments as distill_arguments
from commands.drawing_flags import drawing_flags
from commands.generate import GenerateArgs, default_arguments
from commands.main import main
from recipes import catalogue
from schemas.configuration import output_config
from trainers.concept_card import drawing_command


@pytest.mark.parametrize("preset", catalogue.names("dual_process"))
def test_every_preset_s_command_draws_as_it_teaches(preset, tmp_path):
    taught = catalogue.load(preset, "dual_process").generator
    flags = drawing_flags(preset, taught)
    words = shlex.split(drawing_command("a photo of a man's hat", flags, taught.drawn_by, tmp_path / "my concept"))
    assert words[:4] == ["python", "-m", "inference", "generate"]
    arguments = parse_with_preset(GenerateArgs, words[4:], "generate", default_arguments, "inference")
    assert arguments.prompt == ("a photo of a man's hat",)
    drawn: Any = arguments.generator.chosen
    assert drawn.lora == str(tmp_path / "my concept")
    if taught.kind == "flux":
        assert output_config(replace(drawn, lora="", batch_size=taught.batch_size), {}) == output_config(
            taught.used, {}
        )
    else:
        used = taught.used
        assert (drawn.model, drawn.steps, drawn.guidance) == (used.model, used.num_steps, used.guidance)
        assert (drawn.size_px, drawn.text_length) == (used.size_px, used.max_text_length)


def test_a_preset_that_draws_what_it_teaches_is_all_that_the_command_says():
    assert drawing_flags("dev", catalogue.load("dev", "dual_process").generator) == "--preset dev"
    assert drawing_flags("micro", catalogue.load("micro", "dual_process").generator) == "--preset micro"
    schnell = drawing_flags("schnell", catalogue.load("schnell", "dual_process").generator)
    assert schnell == (
        "--preset schnell --generator.flux.num-steps 1 --generator.flux.size-px 512 --generator.flux.text-lengths 512"
    )


def test_a_lora_that_a_concept_was_taught_on_top_of_stays_below_it():
    taught = catalogue.load("dev", "dual_process").generator
    on_top = replace(taught, flux=replace(taught.flux, lora="runs/first concept"))
    assert drawing_flags("dev", on_top) == "--preset dev --generator.flux.few-steps-lora 'runs/first concept'"


def test_on_ray_a_preset_of_gpus_asks_for_one_and_none_is_refused(tmp_path, capsys):
    for preset in ("schnell", "dev", "flux", "sana"):
        assert distill_arguments(preset).workers.gpus == 1
    assert distill_arguments("micro").workers.gpus == 0
    (tmp_path / "a.yaml").write_text("name: a\nprompt: p\nqa_pairs: [{question: q}]\n")
    command = ["distill", "--concepts", str(tmp_path), "--run", str(tmp_path / "run"), "--preset", "dev"]
    assert main([*command, "--runtime", "ray", "--workers.gpus", "0"]) == 2
    assert "workers without a GPU, and models on cuda" in capsys.readouterr().err
