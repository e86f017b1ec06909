"""The verifier's training on shards: it learns which image is better, resumes, and is loaded as it was saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.vlm.reward_model import RewardModel
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError
from tests.tiny_vlm import save_tiny_vlm
from tests.trainers.micro_shards import write_micro_shards
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.shard_dataset import PairDataset
from trainers.verifier import RewardModelConfig, micro_verifier_training, open_training

LOOP = LoopConfig(
    steps=4, batch_size=4, micro_batch=2, evaluate_every=2, checkpoint_every=1, report_every=1, loader_workers=0
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("verifier")
    return write_micro_shards(root / "data", 16), save_tiny_vlm(root / "vlm")


def config(folders, out, **changes):
    shards, vlm = folders
    base = micro_verifier_training(str(shards), Path(out))
    return replace(
        base,
        model=RewardModelConfig(str(vlm), "micro/verify", rank=4),
        optimizer=OptimizerConfig("adamw", 5e-3, max_gradient_norm=1.0),
        loop=replace(LOOP, **changes),
        held_out_share=0.4,
        num_evaluated=6,
    )


def test_it_fits_its_pairs_and_scores_the_same_after_loading(folders, tmp_path):
    training = open_training(config(folders, tmp_path, steps=30, evaluate_every=30, checkpoint_every=30))
    training.run()
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in curve if "loss" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert any("preferred" in row for row in curve)
    triplets = [PairDataset(training.order)[n] for n in range(4)]
    images, prompts = [t.good for t in triplets], [t.prompt for t in triplets]
    model = RewardModel(str(tmp_path / "verifier"), VlmConfig(batch_size=3))
    with torch.no_grad():
        raw = training.trainable.reward_model.rewards(images, prompts).numpy()
    expected = (raw - model.description.mean) / model.description.std
    assert model.score(images, prompts) == pytest.approx(expected, abs=0.1)  # saved in bfloat16


def test_a_restart_changes_no_number(folders, tmp_path):
    whole = open_training(config(folders, tmp_path / "a"))
    whole.run()
    open_training(config(folders, tmp_path / "b", steps=2)).run()
    again = open_training(config(folders, tmp_path / "b"))
    assert again.step == 2
    again.run()
    for a, b in zip(whole.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)


def test_losses_that_need_margins_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="needs margins"):
        open_training(replace(config(folders, tmp_path), variant="scaled"))
