"""What a training's plan says: the real numbers of parameters, more memory for more, and nothing is touched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microworld.family import micro_generator
from schemas.errors import InputError, MissingWeightsError
from tests.support.micro_trainings import micro_corrector_training, micro_verifier_training
from tests.support.tiny_vlm import save_tiny_vlm
from trainers import __main__ as trainers
from trainers.corrector import CorrectorTrainingConfig
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.measured_rate import keep_rate, rate_of
from trainers.reflector import ReflectorTrainingConfig
from trainers.training_plan import plan_corrector, plan_reflector, plan_verifier, print_plan
from trainers.verifier import (
    RewardModelConfig,
    RewardModelInTraining,
    VerifierTrainingConfig,
)


def test_parameters_of_the_production_models_are_the_published_ones():
    flux = plan_corrector(CorrectorTrainingConfig())
    assert flux.base_parameters == 11_901_408_320 + 4_762_310_656 + 123_060_480 + 83_819_683
    assert plan_reflector(ReflectorTrainingConfig()).base_parameters == 8_292_166_656


def test_parameters_of_a_model_that_is_here_are_those_that_are_trained(tmp_path):
    folder = save_tiny_vlm(tmp_path / "vlm")
    config = micro_verifier_training("", tmp_path)
    config = replace(config, model=RewardModelConfig(str(folder), "micro/verify", rank=4))
    module = RewardModelInTraining(config.model).module
    head = module.get_parameter("head.weight").numel()
    planned = plan_verifier(config)
    assert planned.trained_parameters == sum(p.numel() for p in module.parameters() if p.requires_grad) - head
    assert planned.memory_gib["optimizer"] == pytest.approx(planned.trained_parameters * 8 / 2**30)


def test_more_samples_take_more_memory_and_recomputing_takes_time_instead():
    base = CorrectorTrainingConfig()
    one, four = (plan_corrector(replace(base, loop=LoopConfig(micro_batch=n))) for n in (1, 4))
    assert four.memory_gib["activations"] == pytest.approx(4 * one.memory_gib["activations"])
    saved = plan_corrector(replace(base, recompute=True))
    assert saved.memory_gib["activations"] < 0.1 * one.memory_gib["activations"]
    assert saved.sample_tflop == pytest.approx(1.5 * one.sample_tflop)
    adamw = plan_corrector(replace(base, optimizer=OptimizerConfig("adamw", 1e-4)))
    assert adamw.memory_gib["optimizer"] == pytest.approx(one.memory_gib["optimizer"] / 2)
    ahead = plan_corrector(replace(base, encode=replace(base.encode, ahead=True)))
    assert one.total_gib - ahead.total_gib == pytest.approx(one.memory_gib["VAE and text encoders"])


def test_the_vlms_recompute_too_and_a_plan_names_only_flags_that_its_trainer_has(capsys):
    plans: dict[str, Any] = {"verifier": plan_verifier, "reflector": plan_reflector}
    for trainer, config in (("verifier", VerifierTrainingConfig()), ("reflector", ReflectorTrainingConfig())):
        plan = plans[trainer]
        whole, saved = plan(config), plan(replace(config, recompute=True))
        assert saved.memory_gib["activations"] < 0.5 * whole.memory_gib["activations"]
        assert saved.sample_tflop == pytest.approx(1.5 * whole.sample_tflop)
        assert trainers.main([trainer, "--preset", "flux", "--plan"]) == 0
        assert "of 79.6 (h100): fits" in capsys.readouterr().out
        assert trainers.main([trainer, "--preset", "flux", "--plan", "--no-recompute", "--plan-gpu", "rtx4090"]) == 0
        micro = config.loop.micro_batch
        assert f"does NOT fit: --recompute or --loop.micro-batch {micro // 2}\n" in capsys.readouterr().out
        given = ["--recompute", "--loop.micro-batch", "1", "--plan-gpu", "rtx4090", "--model.rank", "2048"]
        assert trainers.main([trainer, "--preset", "flux", "--plan", *given]) == 0
        assert "does NOT fit: a GPU with more memory is needed" in capsys.readouterr().out


def test_the_command_says_it_and_touches_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert trainers.main(["corrector", "--plan", "--data", "nowhere", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "micro/flux" in said
    assert "GiB" in said
    assert "estimated" in said
    assert not out.exists()


def test_the_rate_of_the_same_training_on_the_same_device_is_taken_and_whose_it_is_is_said(tmp_path, capsys):
    config = micro_corrector_training("", Path(tmp_path))
    print_plan(plan_corrector(config), config, "cpu", "h100", 1)
    assert "estimated" in capsys.readouterr().out
    keep_rate(tmp_path, replace(config, data="elsewhere"), "cpu", 1, 50.0)
    print_plan(plan_corrector(config), config, "cpu", "h100", 1)
    step = f"{0.02 * config.loop.batch_size:.3g} s a step of {config.loop.batch_size}"
    assert f"0.02 s a sample and worker, {step}; measured in {tmp_path} on cpu" in capsys.readouterr().out
    config = replace(config, loop=replace(config.loop, batch_size=4))
    keep_rate(tmp_path, config, "cpu", 2, 50.0)
    print_plan(plan_corrector(config), config, "cpu", "h100", 4)
    assert "0.04 s a sample and worker, 0.04 s a step of 4" in capsys.readouterr().out


def test_the_rate_of_another_device_or_training_is_named_and_not_taken(tmp_path, capsys):
    config = micro_corrector_training("", Path(tmp_path))
    keep_rate(tmp_path, config, "cpu", 1, 50.0)
    others = {
        "of another device": (config, "cuda"),
        "recompute False there, True here": (replace(config, recompute=True), "cpu"),
        "loop.batch_size": (replace(config, loop=replace(config.loop, batch_size=16)), "cpu"),
        "condition.rank": (replace(config, condition=replace(config.condition, rank=3)), "cpu"),
    }
    for why, (other, device) in others.items():
        print_plan(plan_corrector(other), other, device, "h100", 1)
        said = capsys.readouterr().out
        assert why in said
        assert f"{tmp_path} on cpu" in said
        assert "estimated" in said
    (tmp_path / "rate.json").write_text("{")
    print_plan(plan_corrector(config), config, "cpu", "h100", 1)
    assert "does not read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("measured", "planned", "same"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", True),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb", True),
        ("NVIDIA A100-SXM4-40GB", "a100-80gb", False),
        ("NVIDIA GeForce RTX 4090", "rtx4090", True),
        ("NVIDIA H200", "h100", False),
        ("cpu", "h100", False),
    ],
)
def test_gpus_by_the_names_that_they_give_themselves(measured, planned, same, tmp_path, monkeypatch):
    config = micro_corrector_training("", Path(tmp_path))
    monkeypatch.setattr("trainers.measured_rate.device_name", lambda device: measured)
    keep_rate(tmp_path, config, "cuda", 1, 1.0)
    assert (rate_of(tmp_path, config, planned)[0] is not None) == same


def test_what_is_not_known_is_refused(tmp_path):
    config = micro_corrector_training("", tmp_path)
    with pytest.raises(InputError, match="no figures of 'tpu'"):
        print_plan(plan_corrector(config), config, "cuda", "tpu", 1)
    with pytest.raises(MissingWeightsError):
        plan_corrector(replace(config, generator=micro_generator("some/flux")))
