"""The command: a concept's file in, a folder out; never over another concept; killed, it goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

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
    short = ["--steps", "2", "--num-evaluated", "2", "--rank", "2", "--num-threads", "1", "--min-rise", "-1"]
    return [*drawn, "--teacher.model", str(vlm), *sizes, *short]


def test_a_concept_is_distilled_once_and_never_over_another(flags, tmp_path, capsys):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT)
    command = ["dual-process", "--config", str(file), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--min-probability", "0"]) == 0
    said = capsys.readouterr().out
    assert "star 1/2  loss" in said
    assert "2 steps" in said
    assert "python -m inference generate 'a photo of a red star' --preset micro --generator.flux.model" in said
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


def test_resuming_what_is_not_there_and_models_that_are_not_are_told_before_anything_is_loaded(flags, tmp_path, capsys):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT)
    command = ["dual-process", "--config", str(file), "--out", str(tmp_path / "out"), *flags]
    assert main([*command, "--resume"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
    gone = ["--generator.flux.model", "black-forest-labs/gone", "--teacher.model", "HuggingFaceM4/gone"]
    assert main([*command, *gone]) == 2
    said = capsys.readouterr().err
    assert "black-forest-labs/gone" in said
    assert "HuggingFaceM4/gone" in said


def test_a_referee_is_refused_by_name_or_ends_a_training_that_is_then_called_fooled(flags, tmp_path, capsys):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT)
    command = ["dual-process", "--config", str(file), "--out", str(tmp_path / "out"), *flags]
    teacher = flags[flags.index("--teacher.model") + 1]
    assert main([*command, "--referee.model", teacher]) == 2
    assert "looks on at its own lessons" in capsys.readouterr().err
    gone = ["--teacher.model", "Qwen/gone", "--referee.model", "HuggingFaceM4/gone"]
    assert main([*command, *gone]) == 2
    said = capsys.readouterr().err
    assert "Qwen/gone" in said
    assert "HuggingFaceM4/gone" in said
    # Random weights of seed 1 find the answer .0014 probable, those of seed 0 .0004.
    other = str(save_tiny_vlm(tmp_path / "vlm", seed=1))
    bounds = ["--referee.sure", "0.001", "--referee.doubtful", "0.0007"]
    parted = [*command, "--teacher.model", other, "--referee.model", teacher, *bounds]
    assert main(parted) == 1
    said = capsys.readouterr()
    assert "the VLM is fooled: before the first step" in said.err
    assert "not learnt" not in said.out + said.err
    page = read_page((tmp_path / "out" / "index.html").read_text()).visible
    assert "star: fooled" in page
    assert f"by the referee {teacher}" in page
    assert main(parted) == 1
    assert "finished already, and fooled" in capsys.readouterr().out


FROZEN = """
import sys
from commands import train_dual_process
from commands.main import main
from tests.support.held_processes import freeze_after
freeze_after(train_dual_process, sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def run(command, kill_at=None):
    """The exit code; with `kill_at` the process is killed when it has reported that step, where it stands still."""
    root, reported = Path(__file__).parents[2], f"star {kill_at}/"
    process = subprocess.Popen(
        [sys.executable, *(["-m", "trainers"] if kill_at is None else ["-c", FROZEN, reported]), *command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if kill_at is not None and line.startswith(reported):
            process.send_signal(signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_for_good_and_resumed_it_gives_the_same_lora(flags, tmp_path):
    file = tmp_path / "star.yaml"
    file.write_text(CONCEPT + "    paraphrases: ['Can a red star be seen?']\n")
    more = ["--augmentation.shift", "0.1", "--augmentation.noise", "0.05"]
    more += ["--steps", "24", "--learning-rate", "1e-3", "--stop-after", "0", "--min-probability", "0"]
    more += ["--checkpoint-every", "2", "--report-every", "1", "--hopeless-after", "0"]
    command = ["dual-process", "--config", str(file), *flags, *more]
    assert run([*command, "--out", str(tmp_path / "whole")]) == 0
    assert run([*command, "--out", str(tmp_path / "killed")], kill_at=5) == -signal.SIGKILL
    assert run([*command, "--out", str(tmp_path / "killed"), "--resume"]) == 0
    whole, killed = (load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("whole", "killed"))
    assert list(whole) == list(killed)
    assert all(value.equal(killed[name]) for name, value in whole.items())
