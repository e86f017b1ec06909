"""Kinds of generators that a distillation teaches, and keys that stay what they were when there was one kind."""

from dataclasses import replace

import pytest

from inference.flux.generator import FluxGeneratorConfig
from microworld.family import micro_flux
from schemas.errors import InputError, MissingWeightsError
from trainers import flux_denoiser, sana_denoiser
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process_config import DualProcessConfig
from trainers.flux_denoiser import LORA_TARGETS, TEXT_TARGETS
from trainers.sana_denoiser import SanaConfig
from trainers.vqa_loss import TeacherConfig

# The micro preset's as it was then (its texts were cut at 48 tokens), with three prompts to keep.
PLAIN = DualProcessConfig(  # what all defaults were then
    DenoiserConfig(flux=replace(micro_flux(), text_lengths=(16, 32, 48))), TeacherConfig("micro/vlm"), weight_decay=0.01
)
MICRO = replace(
    PLAIN,
    keep_weight=10.0,
    keep_prompts=("a photo of a red star", "two rings", "a photo of a blue star left of a ring"),
    batch_size=8,
    steps=80,
    learning_rate=1e-3,
    lora_targets=TEXT_TARGETS,
    warmup_steps=10,
    gradient_steps=4,
    stop_probability=0.9,
)
SCHNELL = DualProcessConfig(
    DenoiserConfig(flux=replace(FluxGeneratorConfig("black-forest-labs/FLUX.1-schnell"), num_steps=1, size_px=512)),
    TeacherConfig("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16", gradient_checkpointing=True, device="cuda"),
    weight_decay=0.01,
)


def key(config, denoiser="FluxDenoiser"):
    """Of models whose weights are always the same."""
    return config.key(dict.fromkeys(config.models, "0123456789abcdef"), denoiser)


@pytest.mark.parametrize(
    ("config", "pinned"),
    [(PLAIN, "0476ff5d2e82591f"), (MICRO, "ea6dc44f3ddb5de3"), (SCHNELL, "b5fc0dcae45c9273")],
)
def test_what_was_finished_when_flux_was_the_only_kind_still_is(config, pinned):
    assert key(config) == pinned


def test_a_key_changes_with_what_is_used_and_with_nothing_else():
    sana = DualProcessConfig(DenoiserConfig("sana"))
    for config, used, other in (
        (DualProcessConfig(), {"flux": FluxGeneratorConfig(num_steps=9)}, {"sana": SanaConfig(num_steps=9)}),
        (sana, {"sana": SanaConfig(num_steps=9)}, {"flux": FluxGeneratorConfig(num_steps=9)}),
    ):
        assert key(replace(config, generator=replace(config.generator, **other))) == key(config)
        assert key(replace(config, generator=replace(config.generator, **used))) != key(config)
    assert key(sana, "SanaDenoiser") != key(DualProcessConfig())
    assert key(replace(DualProcessConfig(), lora_targets=LORA_TARGETS)) == key(DualProcessConfig())


def test_each_kind_has_its_own_lora_targets_and_models():
    flux, sana = PLAIN, replace(PLAIN, generator=DenoiserConfig("sana"))
    assert flux.targets == flux_denoiser.LORA_TARGETS
    assert sana.targets == sana_denoiser.LORA_TARGETS
    assert replace(sana, lora_targets=("attn1.to_q",)).targets == ("attn1.to_q",)
    assert flux.models == ("micro/flux", "micro/vlm")
    assert sana.models == (SanaConfig().model, "micro/vlm")
    assert sana.described()["generator"]["max_text_length"] == 300


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"compile": "blocks"}, "compile 'blocks'"),
        ({"quantization": "fp8"}, "quantization 'fp8'"),
        ({"quantization": "fp8_dynamic", "offload": "model"}, "quantization 'fp8_dynamic' and offload 'model'"),
    ],
)
def test_weights_on_which_no_lora_learns_whole_are_refused_by_name(asked, says):
    with pytest.raises(InputError, match=says) as refused:
        DualProcessConfig(DenoiserConfig(flux=replace(micro_flux(), **asked)))
    assert refused.value.field == f"generator.flux.{next(iter(asked))}"
    with pytest.raises(InputError, match="'sana' has no checkpointing"):
        DualProcessConfig(DenoiserConfig("sana"), vae_checkpointing=True)


def test_what_cannot_be_is_told_before_anything_is_loaded():
    with pytest.raises(MissingWeightsError, match="some/sana"):
        DenoiserConfig("sana", sana=SanaConfig("some/sana")).open()
    with pytest.raises(InputError, match="0 steps"):
        SanaConfig(num_steps=0)
    with pytest.raises(InputError, match="from step 0 of 3 on"):
        DualProcessConfig(DenoiserConfig("sana", sana=SanaConfig(num_steps=3)), gradient_steps=4)
