"""The command: a concept's file in, a folder out; never over another concept."""

import pytest

from commands.main import main
from tests.support.page_reader import read_page
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_vlm import save_tiny_vlm

CONCEPT = "name: star\nprompt: a photo of a red star\nqa_pairs:\n  - question: Is there a red star?\n"


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    flux, vlm = save_tiny_flux(folder / "flux"), save_tiny_vlm(folder / "vlm")
    drawn = ["--generator.flux.model", str(flux), "--generator.flux.size-px", "16", "--generator.flux.num-steps", "2"]
    sizes = ["--gradient-steps", "1", "--batch-size", "1"]
    short = ["--steps", "2", "--num-evaluated", "2", "--rank", "2", "--num-threads", "1"]
    return [*drawn, "--teacher.model", str(vlm), *sizes, *short]


def test_a_concept_is_distilled_once_and_never_over_another(flags, tmp_path, capsys):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT)
    command = ["dual-process", "--config", str(file), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--min-probability", "0"]) == 0
    assert "2 steps" in capsys.readouterr().out
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").exists()
    page = read_page((tmp_path / "out" / "index.html").read_text())
    assert "star: learnt" in page.visible
    assert "Is there a red star?" in page.visible
    assert page.tags.count("img") == 2
    assert main([*command, "--min-probability", "0"]) == 0
    assert "finished already" in capsys.readouterr().out
    file.write_text(CONCEPT.replace("red", "blue"))
    assert main([*command, "--min-probability", "0"]) == 2
    assert "holds another concept" in capsys.readouterr().err


def test_exit_codes_of_what_is_wrong(flags, tmp_path, capsys):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT)
    command = ["dual-process", "--config", str(file), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--min-probability", "0.999"]) == 1
    assert "'star' is not learnt" in capsys.readouterr().err
    assert "star: not learnt" in read_page((tmp_path / "out" / "index.html").read_text()).visible
    file.write_text("name: star\nprompt: p\n")
    assert main(command) == 2
    assert "star.yaml:1" in capsys.readouterr().err
    assert main([*command[:2], str(tmp_path / "gone.yaml"), *command[3:]]) == 2
    assert "gone.yaml" in capsys.readouterr().err
    assert main(["dual-process", "--preset", "huge"]) == 2
