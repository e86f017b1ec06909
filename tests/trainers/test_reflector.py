"""The reflector learns answers alone, goes on with the same numbers, and is loaded as an adapter everywhere."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from inference.interfaces import ChatRequest
from inference.model_store import model_digest
from inference.reflection_text import nothing_to_correct
from inference.search import NOTHING_WRONG
from inference.vlm.adapters import base_model_of, merged_folder
from inference.vlm.in_process import InProcessVlm
from inference.vlm.prompts import load_prompt
from inference.vlm.reflector_words import words_of
from microworld.family import micro_qwen
from schemas.errors import InputError, MissingWeightsError
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_reflector_training
from tests.support.plain_shards import write_shards
from tests.support.recomputing import assert_recomputing_changes_no_gradient
from tests.support.tiny_vlm import save_tiny_vlm
from trainers.lessons import IGNORED, Lesson, lesson_inputs
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.reflector import ReflectorConfig, lesson_of, open_training
from trainers.shard_dataset import Triplet

LOOP = LoopConfig(
    steps=4, batch_size=4, micro_batch=2, evaluate_every=2, checkpoint_every=1, report_every=1, loader_workers=0
)
COT = {"analysis": "One is red.", "good_side": "right", "verdict": "right", "instruction": "Make it red."}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("reflector")
    return write_micro_shards(root / "data", 16), save_tiny_vlm(root / "vlm")


def config(folders, out, **changes):
    shards, vlm = folders
    return replace(
        micro_reflector_training(str(shards), Path(out)),
        model=ReflectorConfig(str(vlm), "micro/reflect", "micro/compare", rank=4, image_px=0),
        optimizer=OptimizerConfig("adamw", 5e-3, max_gradient_norm=1.0),
        loop=replace(LOOP, **changes),
        held_out_share=0.4,
        num_evaluated=6,
        num_written=3,
    )


def triplet(number=0, cot=None):
    good, bad = np.full((32, 32, 3), 200, np.uint8), np.full((32, 32, 3), 20, np.uint8)
    return Triplet(number, good, bad, "a photo of a red star", "Make the star red.", "rule", cot)


def test_labels_are_the_answers_and_their_ends(folders):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folders[1])
    lessons = [lesson_of(triplet(), micro_reflector_training("", Path()).model, 0) for _ in range(2)]
    lessons[1] = Lesson(ChatRequest("a star?"), "Yes.")
    inputs, labels = lesson_inputs(processor, lessons)
    said = [processor.tokenizer.decode(row[row != IGNORED]) for row in labels]
    assert said == ["Make the star red.<|im_end|>", "Yes.<|im_end|>"]
    assert (labels[inputs["attention_mask"] == 0] == IGNORED).all()


def test_a_chain_of_thought_is_learnt_with_both_images_in_their_order():
    always = replace(ReflectorConfig(), template="micro/reflect", compare_template="micro/compare", cot_share=1.0)
    lesson = lesson_of(triplet(cot=COT), always, 0)
    (shown,) = lesson.request.images
    assert shown[:, :32].max() == 20  # the good image is on the right
    assert shown[:, 32:].min() == 200
    assert json.loads(lesson.answer) == {
        "Analysis": "One is red.",
        "Result": "right",
        "Instructions": "Make it red.",
    }
    share = replace(always, cot_share=0.3)
    compared = [len(lesson_of(triplet(n, COT), share, 0).answer) > 30 for n in range(300)]
    assert 0.2 < np.mean(compared) < 0.4
    assert compared == [len(lesson_of(triplet(n, COT), share, 0).answer) > 30 for n in range(300)]


@pytest.mark.parametrize(("subset", "seen"), [("rule", 0.3), ("editing", 0.3), ("general", 0.0), ("length", 0.0)])
def test_a_share_of_right_images_is_seen_with_nothing_to_correct(subset, seen):
    """Not those that only have the better reward: their good image may be wrong."""
    config = ReflectorConfig(template="micro/reflect", compare_template="micro/compare", cot_share=0.5, right_share=0.3)
    shown = [replace(triplet(n, COT), subset=subset) for n in range(400)]
    lessons = [lesson_of(one, config, 0) for one in shown]
    right = [lesson for lesson in lessons if lesson.answer == NOTHING_WRONG]
    assert len(right) / len(lessons) == pytest.approx(seen, abs=0.06)
    assert all(nothing_to_correct(lesson.answer) for lesson in right)
    flawed = lesson_of(triplet(), replace(config, right_share=0.0), 0)
    for lesson in right:
        assert lesson.request.text == flawed.request.text  # it is asked as of a flawed image
        (image,) = lesson.request.images
        assert image.min() == 200  # the good one, alone
    others = [lesson.answer for lesson in lessons if lesson.answer != NOTHING_WRONG]
    assert 0.4 < np.mean([answer.startswith("{") for answer in others]) < 0.6
    assert [lesson.answer for lesson in lessons] == [lesson_of(one, config, 0).answer for one in shown]


def test_it_fits_and_its_adapter_answers_as_the_model_in_training(folders, tmp_path, monkeypatch):
    training = open_training(config(folders, tmp_path, steps=30, evaluate_every=30, checkpoint_every=30))
    training.run()
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in curve if "loss" in row]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert any("held_out_loss" in row for row in curve)
    lines = (tmp_path / "samples" / "reflections_000030.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert set(json.loads(lines[0])) == {"prompt", "written", "dataset"}

    assert {"word_for_word", "right_left_alone"} <= {name for row in curve for name in row}

    adapter = tmp_path / "reflector"
    assert base_model_of(adapter) == str(folders[1])
    assert words_of(str(adapter)) == load_prompt("micro/reflect")  # a search asks it as it was trained
    request = ChatRequest("Write a reflection.", (triplet().bad,))
    told = InProcessVlm(micro_qwen(str(adapter), max_new_tokens=12)).first_word_probabilities(
        [request], ("Make", "Add")
    )
    base = InProcessVlm(micro_qwen(str(folders[1]))).first_word_probabilities([request], ("Make", "Add"))
    assert np.abs(told - base).max() > 1e-3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    merged = merged_folder(adapter, "0123", "float32")
    assert merged == merged_folder(adapter, "0123", "float32")  # found again
    assert base_model_of(merged) is None
    again = InProcessVlm(micro_qwen(str(merged))).first_word_probabilities([request], ("Make", "Add"))
    assert again == pytest.approx(told, abs=1e-5)
    assert merged_folder(folders[1], "0123", "float32") == folders[1]


def test_it_goes_on_from_a_trained_one(folders, tmp_path):
    open_training(config(folders, tmp_path / "first")).run()
    start = tmp_path / "first" / "reflector"
    further = replace(config(folders, tmp_path / "further"), start_from=str(start))
    found = get_peft_model_state_dict(open_training(further).trainable.model)
    kept = load_file(start / "adapter_model.safetensors")
    assert found.keys() == kept.keys()
    assert all(torch.equal(found[name], value.float()) for name, value in kept.items())
    anew = get_peft_model_state_dict(open_training(config(folders, tmp_path / "anew")).trainable.model)
    assert not any(torch.equal(found[name], value) for name, value in anew.items() if "lora_B" in name)
    with pytest.raises(InputError, match=r"rank 4.*\n.*model.rank"):
        open_training(replace(further, model=replace(further.model, rank=2)))
    with pytest.raises(InputError, match="start-from"):
        open_training(replace(further, model=replace(further.model, full=True)))
    with pytest.raises(MissingWeightsError, match="nowhere"):
        open_training(replace(further, start_from=str(tmp_path / "nowhere")))


def test_an_adapters_digest_has_its_base_in_it(folders, tmp_path):
    adapter, base = tmp_path / "adapter", save_tiny_vlm(tmp_path / "base", seed=1)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = model_digest(str(adapter))
    save_tiny_vlm(base, seed=2)
    model_digest.cache_clear()
    assert model_digest(str(adapter)) != before
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="names no base model"):
        base_model_of(adapter)


def test_triplets_without_a_reflection_teach_nothing(folders, tmp_path):
    trainable = open_training(config(folders, tmp_path)).trainable
    mute = replace(triplet(), reflection=" ")
    assert list(trainable.losses([mute])) == []
    ((subsets, losses),) = trainable.losses([triplet(), mute])
    ((_, alone),) = trainable.losses([triplet()])
    assert subsets == ["rule"]
    assert losses.tolist() == pytest.approx(alone.tolist())


def test_held_out_triplets_without_a_reflection_are_not_evaluated(folders, tmp_path):
    mute = write_shards(tmp_path / "mute", ["rule"] * 16, reflection=" ")
    trainable = open_training(config((mute, folders[1]), tmp_path / "out")).trainable
    assert trainable.evaluate() == {}
    trainable.draw_samples(1)


def test_recomputed_layers_change_no_gradient(folders, tmp_path):
    assert_recomputing_changes_no_gradient(open_training, config(folders, tmp_path))


def test_a_restart_changes_no_number(folders, tmp_path):
    """Nor does an evaluation, which a training that ends and goes on has once more."""

    def quiet(out, **changes):
        # A random VLM writes until it is stopped: most of the time of a training as short as this.
        return replace(config(folders, out, evaluate_every=4, **changes), num_written=0)

    whole = open_training(quiet(tmp_path / "a"))
    whole.run()
    open_training(quiet(tmp_path / "b", steps=2)).run()
    again = open_training(quiet(tmp_path / "b"))
    assert again.step == 2
    again.run()
    for a, b in zip(whole.parameters, again.parameters, strict=True):
        assert torch.equal(a, b)


def test_prodigy_goes_on_with_the_same_numbers_and_shows_its_d(folders, tmp_path):
    def prodigy(out, **changes):
        return replace(config(folders, out, **changes), optimizer=OptimizerConfig("prodigy"), num_written=0)

    whole = open_training(prodigy(tmp_path / "a"))
    whole.run()
    open_training(prodigy(tmp_path / "b", steps=2)).run()
    again = open_training(prodigy(tmp_path / "b"))
    again.run()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, again.parameters, strict=True))
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    distances = [row["prodigy_d"] for row in curve if "prodigy_d" in row]
    assert distances == sorted(distances)
    assert distances[-1] > 0
    assert list((tmp_path / "a" / "tensorboard").glob("events*"))
