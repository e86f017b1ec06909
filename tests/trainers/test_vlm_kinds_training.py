"""Verifier and reflector over VLMs of several classes: a step, an export, and what it says when it is opened again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.interfaces import ChatRequest
from inference.verifier import VerifierConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_reflector_training, micro_verifier_training
from tests.support.tiny_models.vlms import KINDS
from trainers import reflector, verifier
from trainers.condenser import CondenserConfig, CondenserTrainingConfig
from trainers.lessons import IGNORED, Lesson, lesson_inputs
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.shard_dataset import PairDataset
from trainers.training_plan import plan_condenser, plan_reflector, plan_verifier
from trainers.vlm_lora import lora_targets

LOOP = LoopConfig(
    steps=1, batch_size=2, micro_batch=2, evaluate_every=9, checkpoint_every=9, report_every=1, loader_workers=0
)
CHANGES = {"loop": LOOP, "held_out_share": 0.0, "num_evaluated": 2, "bf16": False}
STEP = OptimizerConfig("adamw", 5e-3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return str(write_micro_shards(tmp_path_factory.mktemp("shards") / "data", 4))


@pytest.fixture(scope="module", params=["qwen3-vl", "internvl", "gemma3", "llava"])
def folder(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp("vlm") / request.param)


def in_process(**changes):
    return VlmConfig(kind="in-process", device="cpu", dtype="float32", batch_size=3, **changes)


def test_a_verifier_scores_as_it_did_in_training(folder, shards, tmp_path):
    model = verifier.RewardModelConfig(str(folder), "micro/verify", rank=2)
    config = replace(micro_verifier_training(shards, tmp_path), model=model, optimizer=STEP, **CHANGES)
    training = verifier.open_training(config)
    before = [parameter.detach().clone() for parameter in training.parameters]
    training.run()
    changed = [not torch.equal(old, new) for old, new in zip(before, training.parameters, strict=True)]
    assert np.mean(changed) > 0.4  # of LoRA the second matrices, the vision tower, the head
    triplets = [PairDataset(training.order)[n] for n in range(3)]
    images, prompts = [t.good for t in triplets], [t.prompt for t in triplets]
    reward_model = training.trainable.reward_model
    with torch.no_grad():
        raw = reward_model.rewards(images, prompts).numpy()
    trained = TrainedVerifierConfig(str(tmp_path / "verifier"), vlm=in_process(), scores="deviations")
    opened = VerifierConfig(("trained",), trained=trained).open()
    expected = (raw - opened.description.mean) / opened.description.std
    assert [one.score for one in opened.verify(images, prompts)] == pytest.approx(expected, abs=0.1)  # in bfloat16


def test_a_reflector_answers_as_it_did_in_training(folder, shards, tmp_path):
    model = reflector.ReflectorConfig(str(folder), "micro/reflect", "micro/compare", rank=2, image_px=0)
    config = replace(micro_reflector_training(shards, tmp_path), model=model, optimizer=STEP, num_written=1, **CHANGES)
    training = reflector.open_training(config)
    training.run()
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    lesson = Lesson(ChatRequest("Write a reflection.", (image,)), "Make it red.")
    trained = training.trainable
    with torch.no_grad():
        wanted = trained._losses([lesson])
    vlm = in_process(model=str(tmp_path / "reflector"), max_new_tokens=4).open()
    inputs, labels = lesson_inputs(vlm._processor, [lesson])
    with torch.no_grad():
        logits = vlm._model(**inputs).logits
    found = (
        torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="sum"
        )
        / (labels != IGNORED).sum()
    )
    assert float(found) == pytest.approx(float(wanted[0]), rel=1e-2)  # saved in bfloat16
    assert vlm.answer([lesson.request])[0].num_tokens <= 4
    said = vlm._processor.tokenizer.decode(labels[labels != IGNORED])
    assert said.strip().startswith("Make it red.")
    assert int(labels[labels != IGNORED][-1]) in vlm._end_ids()


def test_plans_count_what_is_trained(folder):
    verifying = verifier.VerifierTrainingConfig(model=verifier.RewardModelConfig(str(folder), rank=2))
    reflecting = reflector.ReflectorTrainingConfig(model=reflector.ReflectorConfig(str(folder), rank=2))
    whole = CondenserTrainingConfig(model=CondenserConfig(str(folder), full=True))
    plans = plan_verifier(verifying), plan_reflector(reflecting), plan_condenser(whole)
    assert plans[0].trained_parameters > plans[1].trained_parameters > 0
    assert plans[2].trained_parameters == plans[2].base_parameters
    assert all(gib > 0 for plan in plans for name, gib in plan.memory_gib.items() if name == "activations")


def test_a_class_without_a_language_model_of_its_own_is_refused_by_name():
    from transformers import AutoConfig, AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("florence2"))
    with pytest.raises(InputError, match="Florence2ForConditionalGeneration"):
        lora_targets(model)
