"""`--preset flux` with every class it names, at tiny random sizes on the CPU: prompts to verified shards."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from inference.prompt_grammar import COLORS
from tests.support.tiny_judge import save_tiny_clip
from tests.support.tiny_models import save_tiny_bert, save_tiny_flux, save_tiny_grounding_dino, save_tiny_sam

# Three processes that import torch, diffusers and groundingdino-py: half a minute on two quiet cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def pipelines(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def test_the_flux_preset_runs_through_with_tiny_weights(tmp_path):
    bert = save_tiny_bert(tmp_path / "bert")
    flux = save_tiny_flux(tmp_path / "flux")
    dino = save_tiny_grounding_dino(tmp_path / "dino", bert)
    sam = save_tiny_sam(tmp_path / "sam")
    run = str(tmp_path / "run")
    detector, segmenter, color = (
        f"--ground.grounded-sam.{x}" for x in ("detector.dino", "segmenter.sam", "color.clip")
    )
    flags = [
        *("--preset", "flux", "--num-prompts", "2", "--generate.candidates-per-prompt", "2"),
        *("--generate.generator.flux.model", str(flux), "--generate.generator.flux.device", "cpu"),
        *("--generate.generator.flux.size-px", "32", "--generate.generator.flux.num-steps", "2"),
        *("--generate.generator.flux.text-lengths", "16"),
        *(f"{detector}.model", str(dino), f"{detector}.text-encoder", str(bert), f"{detector}.device", "cpu"),
        *(f"{detector}.box-threshold", "0", f"{detector}.text-threshold", "0"),
        *(f"{segmenter}.model", str(sam), f"{segmenter}.device", "cpu"),
        *(f"{color}.model", str(save_tiny_clip(tmp_path / "clip")), f"{color}.device", "cpu"),
    ]
    done = pipelines("run", "--run", run, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 prompts" in done.stdout

    rows = [
        row for path in Path(run).glob("stages/ground_objects/*/*/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    checks = [candidate["check"] for row in rows for candidate in row["candidates"]]
    assert len(checks) == 4
    assert all(0 <= check["score"] <= 1 for check in checks)
    found = [item for check in checks for item in check["objects"]]
    assert found
    for item in found:
        assert Image.open(io.BytesIO(item["mask_png"])).size == (32, 32)
        assert item["color"] in (*COLORS, "unknown")
    shas = {candidate["image_sha256"] for row in rows for candidate in row["candidates"]}
    assert len(shas) == 4

    verified = pipelines("verify", "--run", run, "--deep")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    status = json.loads(pipelines("status", "--run", run, "--json").stdout)
    assert status["preset"] == "flux"
    assert status["cost_by_stage"]["generate_candidates"]["denoiser_passes"] == 8
