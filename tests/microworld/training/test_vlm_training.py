"""The whole way of the VLM's training, with seconds in place of minutes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.interfaces import ChatRequest
from inference.vlm.in_process import InProcessVlm
from microworld.family import micro_qwen
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vision_pretraining import VisionPretraining
from microworld.training.vlm import VlmRecipe, train
from microworld.training.vlm_evaluation import EvaluationConfig
from tests.support.tiny_vlm import TINY_SHAPE
from trainers.checkpoint import load_checkpoint

RECIPE = VlmRecipe(
    shape=TINY_SHAPE,
    vision=VisionPretraining(seconds=1, batch_size=8),
    tokens_per_step=600,
    bf16=False,
    compile=False,
    vocabulary_rows=40,
    num_vae_images=0,
    num_generated_images=0,
    evaluation=EvaluationConfig(
        num_images=4, num_pairs=2, num_judged=2, num_reflected=4, num_concepts=2, num_overlays=4
    ),
)


def config(tmp_path: Path, minutes: float) -> MicroTrainingConfig:
    return MicroTrainingConfig(minutes, tmp_path / "work", tmp_path / "weights", num_threads=1)


@pytest.mark.slow
def test_a_vlm_trains_resumes_and_loads(tmp_path):
    """A second start goes on with the first one's vocabulary, weights and curve."""
    train(config(tmp_path, 0.05), RECIPE)
    first = load_checkpoint(tmp_path / "work" / "vlm.pt")
    train(config(tmp_path, first["clock"]["spent_s"] / 60 + 0.05), replace(RECIPE, vocabulary_rows=60))
    second = load_checkpoint(tmp_path / "work" / "vlm.pt")
    assert second["clock"]["num_steps"] > first["clock"]["num_steps"] > 0
    assert second["clock"]["curve"][0] == first["clock"]["curve"][0]
    assert second["tokenizer"] == first["tokenizer"]
    curve = json.loads((tmp_path / "work" / "vlm_curve.json").read_text())
    assert any("yes_no_scenes" in row for row in curve)

    vlm = InProcessVlm(micro_qwen(model=str(tmp_path / "weights" / "vlm"), max_new_tokens=8))
    answer = vlm.answer([ChatRequest("Is there a star?", (np.zeros((32, 32, 3), np.uint8),))])[0]
    assert answer.num_tokens > 0
    assert all(p.stat().st_size < 16e6 for p in (tmp_path / "weights").rglob("*.safetensors"))
