"""The micro verifier trains, is written as adapter and head, and scores as it did in training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.vlm.trained_verifier import TrainedVerifier, VerifierDescription, read_description
from microworld.family import micro_vlm
from microworld.scenes.world import random_scene, render
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.verifier import VerifierRecipe, train
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.bradley_terry import bradley_terry_loss
from trainers.verifier import RewardModelConfig, RewardModelInTraining

TINY = VerifierRecipe(
    rank=4,
    batch_pairs=4,
    evaluation_pairs=6,
    num_generated_images=0,
    num_relation_images=0,
    num_corrected_images=0,
    bf16=False,
)


def test_the_loss_of_bradley_and_terry_and_its_variants():
    good, bad = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
    plain = float(-(torch.sigmoid(torch.tensor([2.0, -1.0])).log()).mean())
    assert float(bradley_terry_loss(good, bad)) == pytest.approx(plain)
    asked = float(bradley_terry_loss(good, bad, "constant_margin"))
    assert asked == pytest.approx(float(-(torch.sigmoid(torch.tensor([2.0, -1.0]) - 0.57).log()).mean()))
    margins = torch.tensor([1.0, 0.0])
    assert float(bradley_terry_loss(good, bad, "margin", margins)) > plain
    scaled = float(bradley_terry_loss(good, bad, "scaled", margins))
    assert scaled == pytest.approx(float(-torch.sigmoid(torch.tensor(2.0)).log() / 2))
    assert float(bradley_terry_loss(good, bad, "regularised")) == pytest.approx(plain + 1e-3 * 2.5)
    with pytest.raises(ValueError, match="needs the pairs' margins"):
        bradley_terry_loss(good, bad, "margin")


@pytest.mark.slow
def test_a_verifier_is_trained_written_resumed_and_loaded(tmp_path, monkeypatch):
    save_tiny_vlm(tmp_path / "out" / "vlm")
    config = MicroTrainingConfig(0.05, tmp_path / "work", tmp_path / "out", num_threads=1)
    train(config, TINY)
    folder = tmp_path / "out" / "verifier"
    description = read_description(folder)
    assert description.std > 0
    assert {p.name for p in folder.iterdir()} >= {"adapter_model.safetensors", "verifier.safetensors"}
    # Where the base model of a shipped verifier lies, the zoo knows; here it is a folder.
    values = json.loads((folder / "verifier.json").read_text()) | {"base_model": str(tmp_path / "out" / "vlm")}
    (folder / "verifier.json").write_text(json.dumps(values))
    images = list(render([random_scene(np.random.default_rng(i)) for i in range(5)]).images)
    prompts = [f"a photo of {n} stars" for n in ("one", "two", "three", "four", "five")]
    model = TrainedVerifier(str(folder), micro_vlm(batch_size=2))
    scores = model.score(images, prompts)
    assert scores.shape == (5,)
    assert len(set(scores.tolist())) == 5
    assert TrainedVerifier(str(folder), micro_vlm(batch_size=5)).score(images, prompts) == pytest.approx(
        scores, abs=1e-3
    )
    assert model.score([], []).shape == (0,)
    curve = json.loads((tmp_path / "work" / "verifier_curve.json").read_text())
    train(replace(config, minutes=curve[-1]["minutes"] + 0.05), TINY)
    assert len(json.loads((tmp_path / "work" / "verifier_curve.json").read_text())) > len(curve)


def test_a_training_goes_on_from_what_was_written(tmp_path):
    config = RewardModelConfig(str(save_tiny_vlm(tmp_path / "vlm")), "micro/verify", rank=4)
    images = list(render([random_scene(np.random.default_rng(i)) for i in range(3)]).images)
    rewards = []
    for number in (0, 1):
        torch.manual_seed(number)
        made = RewardModelInTraining(config)
        if number == 0:
            with torch.no_grad():
                for parameter in made.module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.05 * torch.randn_like(parameter)).copy_(parameter.bfloat16())
            made.save(tmp_path / "verifier", 0.0, 1.0)
        else:
            made.restore(tmp_path / "verifier")
        made.module.eval()
        rewards.append(made.rewards(images, ["a photo of a star"] * 3).detach())
    assert torch.equal(*rewards)
    with pytest.raises(MissingWeightsError, match="no adapter to go on from"):
        made.restore(tmp_path / "nowhere")


def test_a_folder_that_is_no_verifier_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no verifier"):
        read_description(tmp_path)
    (tmp_path / "verifier.json").write_text('{"base": 1}')
    with pytest.raises(InputError, match="is no verifier"):
        TrainedVerifier(str(tmp_path), micro_vlm())
    assert VerifierDescription("m", "t").reward_token == "<|VQ_reward|>"
