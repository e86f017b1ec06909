"""The verifier's training on shards: it learns which image is better, resumes, and is loaded as it was saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.vlm.trained_verifier import TrainedVerifier
from microworld.family import micro_vlm
from schemas.errors import InputError
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_verifier_training
from tests.support.recomputing import assert_recomputing_changes_no_gradient
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.pair_labels import CONFIRMED, DENIED, NO_VERDICT, read_labels
from trainers.shard_dataset import PairDataset
from trainers.shard_index import open_index
from trainers.verifier import RewardModelConfig, open_training

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
    model = TrainedVerifier(str(tmp_path / "verifier"), micro_vlm(batch_size=3))
    with torch.no_grad():
        raw = training.trainable.reward_model.rewards(images, prompts).numpy()
    expected = (raw - model.description.mean) / model.description.std
    assert model.score(images, prompts) == pytest.approx(expected, abs=0.1)  # saved in bfloat16


def test_it_goes_on_from_a_trained_one(folders, tmp_path):
    first = open_training(config(folders, tmp_path / "first"))
    first.run()
    further = replace(config(folders, tmp_path / "further"), start_from=str(tmp_path / "first" / "verifier"))
    triplets = [PairDataset(first.order)[n] for n in range(4)]

    def scores(training):
        with torch.no_grad():
            model = training.trainable.reward_model
            return model.rewards([t.good for t in triplets], [t.prompt for t in triplets]).numpy()

    assert scores(open_training(further)) == pytest.approx(scores(first), abs=0.02)  # saved in bfloat16
    assert scores(open_training(replace(further, start_from=""))) != pytest.approx(scores(first), abs=0.02)


def test_recomputed_layers_change_no_gradient(folders, tmp_path):
    assert_recomputing_changes_no_gradient(open_training, config(folders, tmp_path))


def test_a_restart_changes_no_number(folders, tmp_path):
    whole = open_training(config(folders, tmp_path / "a"))
    whole.run()
    open_training(config(folders, tmp_path / "b", steps=2)).run()
    again = open_training(config(folders, tmp_path / "b"))
    assert again.step == 2
    again.run()
    for a, b in zip(whole.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)


COT = {"analysis": "One is red.", "good_side": "right", "instruction": "Make it red."}
AGREES, DISAGREES = COT | {"verdict": "right"}, COT | {"verdict": "left"}
SCORED, BARELY, WRONG = ({"good_score": 2.5, "bad_score": bad} for bad in (0.5, 2.0, 3.0))


@pytest.fixture(scope="module")
def labelled(folders, tmp_path_factory):
    """Nine pairs: a third each confirmed, denied, not compared; of each one clearly, barely and not better."""
    root = tmp_path_factory.mktemp("labelled")
    metas = (SCORED,) * 3 + (BARELY,) * 3 + (WRONG,) * 3
    return write_micro_shards(root, 9, 5, metas=metas, cots=(AGREES, DISAGREES, None)), folders[1]


def test_pairs_whose_verdict_denies_the_label_are_left_out_and_counted(labelled, tmp_path, capsys):
    def trained_on(**changes):
        training = open_training(replace(config(labelled, tmp_path), held_out_share=0.0, **changes))
        return sorted(training.order.index.start.tolist()), capsys.readouterr().out.splitlines()[0]

    every = open_index(str(labelled[0])).start
    numbers, said = trained_on()
    assert numbers == sorted(every[[0, 2, 3, 5, 6, 8]].tolist())
    assert "6 of 9 pairs (3 confirmed by the annotator's verdict, 3 without a verdict)" in said
    assert said.endswith("left out: 3 whose verdict is for the bad image")
    numbers, said = trained_on(pairs="confirmed")
    assert numbers == sorted(every[[0, 3, 6]].tolist())
    assert said.endswith("left out: 3 whose verdict is for the bad image, 3 without a verdict")
    numbers, said = trained_on(pairs="all")
    assert numbers == sorted(every.tolist())
    assert said.endswith("left out: none")


def test_labels_are_those_of_their_samples_whatever_part_of_an_index_is_asked(labelled, tmp_path):
    index = open_index(str(labelled[0]))
    part = index.where(np.isin(np.arange(9), (0, 2, 4, 6, 8)))
    for _ in range(2):
        labels = read_labels(part, tmp_path)
        assert labels.margin.tolist() == [2.0, 2.0, 0.5, -0.5, -0.5]
        assert labels.verdict.tolist() == [CONFIRMED, NO_VERDICT, DENIED, CONFIRMED, NO_VERDICT]


def test_losses_with_margins_are_trained_on_the_pairs_that_have_one(labelled, tmp_path, capsys):
    training = open_training(
        replace(config(labelled, tmp_path, steps=1), variant="margin", pairs="all", held_out_share=0.0)
    )
    assert capsys.readouterr().out.strip().endswith("left out: 3 without a margin above 0")
    triplets = [PairDataset(training.order)[n] for n in range(8)]
    assert {t.margin for t in triplets} == {2.0, 0.5}
    with torch.no_grad():
        ((_, losses),) = training.trainable.losses(triplets)
        good, bad = training.trainable._rewards(triplets)
    margins = torch.tensor([t.margin for t in triplets])
    assert losses.tolist() == pytest.approx((-torch.nn.functional.logsigmoid(good - bad - margins)).tolist(), abs=1e-5)
    training.run()


def test_labels_that_shards_do_not_have_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"0 of 16 pairs .* left out: 16 without a margin above 0"):
        open_training(replace(config(folders, tmp_path), variant="scaled", held_out_share=0.0))
    with pytest.raises(InputError, match=r"0 of 16 pairs .* left out: 16 without a verdict"):
        open_training(replace(config(folders, tmp_path), pairs="confirmed", held_out_share=0.0))
