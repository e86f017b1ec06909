"""`docs/eight_gpus.md`, command by command, with tiny folders where the weights would lie and without GPUs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny_judge import save_tiny_clip
from tests.support.tiny_models import save_tiny_bert, save_tiny_flux, save_tiny_grounding_dino, save_tiny_sam

# Seven processes that import torch, five of which load models.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "eight_gpus.md").read_text(), re.DOTALL)
LINES = [line.partition(" #")[0].strip() for line in "".join(BLOCKS).replace("\\\n", " ").splitlines()]
NOT_HERE = ("git clone", "make env", "uv pip")  # need a network
ON_GPUS = r"--(runtime ray|schedule streaming|(generate|ground)\.workers\.\w+ [\d.]+)"
DETECTOR, SEGMENTER, COLOR = (f"--ground.grounded-sam.{x}" for x in ("detector.dino", "segmenter.sam", "color.clip"))
TINY = [
    *("--generate.candidates-per-prompt", "2", "--generate.generator.flux.device", "cpu"),
    *("--generate.generator.flux.size-px", "32", "--generate.generator.flux.num-steps", "2"),
    *("--generate.generator.flux.text-lengths", "16", f"{DETECTOR}.device", "cpu", f"{SEGMENTER}.device", "cpu"),
    *(f"{DETECTOR}.box-threshold", "0", f"{DETECTOR}.text-threshold", "0", f"{COLOR}.device", "cpu"),
]


def lay_out_weights(folder: Path) -> None:
    """The folder as `deploy/fetch_weights.sh` leaves it: the hub's cache, and two files beside it."""

    def cached(name: str) -> Path:
        repository = folder / "hf" / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0123abcd")
        return repository / "snapshots" / "0123abcd"

    save_tiny_flux(cached("black-forest-labs/FLUX.1-dev"))
    bert = save_tiny_bert(cached("google-bert/bert-base-uncased"))
    save_tiny_clip(cached("openai/clip-vit-large-patch14"))
    save_tiny_grounding_dino(folder / "groundingdino_swint_ogc.pth", bert)
    save_tiny_sam(folder / "sam_vit_h_4b8939.pth")


def test_the_page_can_be_followed(tmp_path):
    weights = tmp_path / "weights"
    lay_out_weights(weights)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    followed = []
    for line in LINES:
        if line.startswith(NOT_HERE):
            continue
        if line.startswith("export "):
            environment |= dict(word.split("=") for word in shlex.split(line.replace("$PWD", str(tmp_path)))[1:])
            continue
        small = line.replace("--num-prompts 2000", "--num-prompts 6").replace("--num-prompts 40", "--num-prompts 4")
        words = shlex.split(re.sub(ON_GPUS, "", small))
        if words[0].startswith("deploy/"):
            words = ["bash", str(ROOT / words[0]), *words[1:]]
        if words[3:4] == ["run"] or "--check" in words:
            words += TINY
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        followed.append(words[3] if words[0] == "python" else Path(words[1]).name)
    assert followed == [
        "fetch_weights.sh",
        *("plan", "plan", "run", "report", "run", "status", "verify", "report"),
    ]
    drawn = list((tmp_path / "runs" / "first" / "stages" / "generate_candidates").rglob("*.parquet"))
    assert len(drawn) == 2  # four prompts, and two more: what random models draw need not make a pair
    assert (tmp_path / "runs" / "first" / "card" / "README.md").exists()
