"""The whole way of the generator's training, with seconds in place of minutes."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from microworld.training.flux import FluxRecipe
from microworld.training.flux import train as train_flux
from microworld.training.training_loop import MicroTrainingConfig
from trainers.checkpoint import load_checkpoint

RECIPE = FluxRecipe(
    batch_size=8,
    text_pretraining_s=1,
    compile=False,
    bf16=False,
    pool_start=200,
    pool_chunk=200,
    score_per_tag=1,
    score_steps=1,
)
VAE = ["-m", "trainers", "micro", "--model", "vae", "--threads", "1"]


def vae_command(tmp_path: Path, minutes: float) -> list[str]:
    folders = ["--work-dir", str(tmp_path / "work"), "--out", str(tmp_path / "weights")]
    return [sys.executable, *VAE, "--minutes", str(minutes), *folders]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_vae_and_flux_train_resume_after_sigkill_and_load_as_a_pipeline(tmp_path):
    """A kill costs at most the work since the last checkpoint; the folder is one that plain diffusers loads."""
    subprocess.run(vae_command(tmp_path, 0.1), check=True, timeout=300)
    before = load_checkpoint(tmp_path / "work" / "vae.pt")["clock"]
    assert before["num_steps"] > 0
    with subprocess.Popen(vae_command(tmp_path, 10), stdout=subprocess.PIPE, text=True) as process:
        while "a step takes" not in process.stdout.readline():  # said when the training goes on
            assert process.poll() is None
        time.sleep(2)
        process.kill()
    # Budgets go on from the seconds that were spent: on a slow machine one step may take more than any fixed budget.
    spent_s = load_checkpoint(tmp_path / "work" / "vae.pt")["clock"]["spent_s"]
    subprocess.run(vae_command(tmp_path, spent_s / 60 + 0.05), check=True, timeout=300)
    assert load_checkpoint(tmp_path / "work" / "vae.pt")["clock"]["num_steps"] > before["num_steps"]

    config = MicroTrainingConfig(0.05, tmp_path / "work", tmp_path / "weights", num_threads=1)
    train_flux(config, RECIPE)
    first = load_checkpoint(config.work_dir / "flux.pt")
    train_flux(replace(config, minutes=first["clock"]["spent_s"] / 60 + 0.05), RECIPE)
    second = load_checkpoint(config.work_dir / "flux.pt")
    assert second["clock"]["num_steps"] > first["clock"]["num_steps"] > 0
    assert second["clock"]["curve"][0] == first["clock"]["curve"][0]

    pipeline = FluxPipeline.from_pretrained(config.out_dir / "flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of a star", height=32, width=32, num_inference_steps=1, max_sequence_length=16).images[0]
    assert np.asarray(image).shape == (32, 32, 3)
    assert all(p.stat().st_size < 16e6 for p in config.out_dir.rglob("*.safetensors"))


def test_flux_without_a_vae_is_a_usage_error(tmp_path, capsys):
    from commands.main import main

    assert main(["micro", "--model", "flux", "--out", str(tmp_path), "--work-dir", str(tmp_path)]) == 2
    assert "--model vae` first" in capsys.readouterr().err
    assert main(["micro", "--model", "vae", "--minutes", "-1"]) == 2
    assert main(["nonsense"]) == 2


def test_help_answers_fast_and_loads_no_torch():
    code = "import sys; from commands.main import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
