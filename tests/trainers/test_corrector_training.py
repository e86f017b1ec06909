"""The corrector's training: what is dropped and how often, that it learns, and that a restart changes no number."""

import contextlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.flux.corrector import FluxCorrector, FluxCorrectorConfig
from inference.flux.generator import FluxGenerator
from inference.generator import GeneratorConfig
from microworld.family import micro_flux, micro_generator
from schemas.errors import InputError, WorkFailedError
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_corrector_training
from tests.support.tiny_models import save_tiny_flux
from trainers.corrector import open_training
from trainers.corrector_batches import BatchConfig, BatchMaker, DropConfig, prepare, times_of
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.shard_dataset import MixSchedule, Triplet

SMALL = BatchConfig(size_px=32, condition_px=32)


def triplet(number, subset="rule", reflection="Add a red star.", good=(32, 32), bad=(32, 32)):
    rng = np.random.default_rng(number)
    images = [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in (good, bad)]
    return Triplet(number, images[0], images[1], "a photo of a star", reflection, subset)


def test_drops_have_the_published_shares_and_editing_keeps_its_image():
    rule = [prepare(triplet(n), SMALL, 0) for n in range(3000)]
    assert np.mean([s.text == "" for s in rule]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([not s.image_used for s in rule]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([not s.reflection_used for s in rule]) == pytest.approx(0.1 + 0.9 * 0.2, abs=0.02)
    for sample in rule:
        if not sample.image_used:
            assert not sample.bad.any()
            assert not sample.reflection_used
        assert sample.clip_text == "a photo of a star"
        told = sample.reflection_used and sample.text != ""
        assert sample.text == ("a photo of a star [Reflexion] Add a red star." if told else sample.text)
    assert all(prepare(triplet(n, "editing"), SMALL, 0).image_used for n in range(300))


def test_a_sample_depends_on_seed_and_number_alone():
    one, again, other = (prepare(triplet(5), SMALL, seed) for seed in (1, 1, 1))
    assert (one.good == again.good).all()
    assert one.text == again.text == other.text
    texts = {seed: [prepare(triplet(n), SMALL, seed).text for n in range(40)] for seed in (1, 2)}
    assert texts[1] != texts[2]


def test_both_images_get_the_same_crop_whatever_their_sizes():
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (64, 96, 3))
    shown = Triplet(0, ramp.copy(), ramp[::2, ::2].copy(), "p", "r", "editing")
    sample = prepare(shown, replace(SMALL, size_px=48), 3)
    assert sample.good.shape == sample.bad.shape == (48, 48, 3)
    assert np.abs(sample.good.astype(int) - sample.bad).max() <= 3


def test_where_the_text_is_dropped_t5_reads_nothing_and_clip_the_prompt():
    maker = BatchMaker(
        FluxGenerator(micro_flux()), replace(SMALL, drop=DropConfig(1.0, 0.0, 0.0)), ConditionConfig(), 0
    )
    (dropped,) = maker([triplet(1)])
    (other,) = maker([replace(triplet(1), prompt="a photo of a ring", reflection="")])
    assert torch.equal(dropped.prompt_embeds, other.prompt_embeds)
    assert not torch.equal(dropped.pooled, other.pooled)
    plain = BatchMaker(maker._generator, replace(SMALL, drop=DropConfig(0.0, 0.0, 0.0)), ConditionConfig(), 0)
    assert not torch.equal(plain([replace(triplet(1), reflection="")])[0].prompt_embeds, dropped.prompt_embeds)


def test_parts_of_a_batch_have_so_many_rows_and_count_the_real_ones():
    (batch,) = BatchMaker(FluxGenerator(micro_flux()), SMALL, ConditionConfig(), 0)([triplet(n) for n in range(5)])[:1]
    parts = batch.in_parts_of(3)
    assert {len(part.x0) for part in parts} == {len(part.weight) for part in parts} == {3}
    assert [n for part in parts for n in part.numbers] == batch.numbers
    assert torch.equal(torch.cat([part.x0[: len(part.numbers)] for part in parts]), batch.x0)
    assert batch.in_parts_of(0) == [batch]


def test_a_share_of_the_times_is_where_sampling_starts_and_the_others_keep_their_distribution():
    draws = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    plain, with_start = (times_of(draws, replace(SMALL, time_shift=1.0, start_share=share)) for share in (0.0, 0.25))
    assert float((with_start == 1).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(plain.max()) < 1
    within = with_start[with_start < 1]
    for share in (0.1, 0.5, 0.9):
        assert float(within.quantile(share)) == pytest.approx(float(plain.quantile(share)), abs=0.01)


@pytest.mark.parametrize("hardware", [(False, False), (True, False), (False, True)])
def test_the_frozen_transformer_is_in_bfloat16_where_the_machine_multiplies_in_it(hardware, monkeypatch):
    for name, has in zip(("_is_avx512_bf16_supported", "_is_amx_tile_supported"), hardware, strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda has=has: has)
    config = micro_corrector_training("", Path("out"))
    assert config.frozen_in_bf16 is any(hardware)
    assert replace(config, bf16=True).frozen_in_bf16
    assert not replace(config, bf16=False).frozen_in_bf16
    assert replace(config, generator=micro_generator(device="cuda")).frozen_in_bf16


def test_a_reflection_too_short_is_none():
    assert all(not prepare(triplet(n, reflection="no"), SMALL, 0).reflection_used for n in range(20))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_micro_shards(tmp_path_factory.mktemp("data"))


LOOP = LoopConfig(
    steps=6, batch_size=4, micro_batch=2, evaluate_every=3, checkpoint_every=1, report_every=1, loader_workers=0
)


ADAMW = OptimizerConfig("adamw", 1e-3)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A random one, for what holds whatever is learnt."""
    return micro_flux(str(save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")), num_steps=2, batch_size=4)


def config(shards, out, flux, optimizer=ADAMW, **changes):
    return replace(
        micro_corrector_training(str(shards), Path(out)),
        generator=GeneratorConfig("flux", flux),
        condition=ConditionConfig(rank=4, alpha=4.0),
        mix=MixSchedule(steps=10),
        loop=replace(LOOP, **changes),
        optimizer=optimizer,
        num_evaluated=4,
        held_out_share=0.3,
        bf16=False,
    )


class Killed(Exception):
    pass


def trained(config, kill_at=None):
    training = open_training(config)

    def on_step(step, row):
        if step == kill_at:
            raise Killed

    with contextlib.suppress(Killed):
        training.run(on_step)
    return training


def curve_of(out):
    return [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]


def test_a_killed_training_goes_on_with_the_same_numbers(shards, flux, tmp_path):
    whole = trained(config(shards, tmp_path / "whole", flux))
    trained(config(shards, tmp_path / "killed", flux), kill_at=4)  # after the checkpoint of step 3
    again = trained(config(shards, tmp_path / "killed", flux))
    assert again.step == whole.step == 6
    for name, value in whole.trainable.model.lora.state_dict().items():
        assert torch.equal(value, again.trainable.model.lora.state_dict()[name]), name
    rows = [{row["step"]: row for row in curve_of(tmp_path / name) if "loss" in row} for name in ("whole", "killed")]
    assert rows[0][6]["loss"] == rows[1][6]["loss"]
    assert any(name.startswith("loss/") for name in rows[0][6])


def test_micro_batches_change_nothing_but_rounding(shards, flux, tmp_path):
    one = trained(config(shards, tmp_path / "a", flux, steps=2))
    two = trained(config(shards, tmp_path / "b", flux, steps=2, micro_batch=4))
    for a, b in zip(one.parameters, two.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0.05)


def test_it_learns_and_what_it_writes_draws(shards, tmp_path):
    micro = micro_flux(num_steps=2, batch_size=4)
    seldom = {"evaluate_every": 40, "checkpoint_every": 40, "report_every": 5, "micro_batch": 4}
    made = trained(config(shards, tmp_path, micro, steps=40, optimizer=OptimizerConfig("adamw", 5e-3), **seldom))
    curve = curve_of(tmp_path)
    losses = [row["loss"] for row in curve if "loss" in row]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert any("held_out" in row for row in curve)
    assert (tmp_path / "samples" / "step_00000040.png").exists()
    corrector = FluxCorrector(
        FluxCorrectorConfig(str(tmp_path / "corrector")), FluxGenerator(made.trainable.config.flux)
    )
    flawed = np.zeros((32, 32, 3), np.uint8)
    assert corrector.correct([flawed], ["a photo of a star"], ["Add a star."], [1])[0].shape == (32, 32, 3)


def test_a_loss_that_is_no_number_stops_and_says_where(shards, flux, tmp_path):
    training = open_training(config(shards, tmp_path, flux))
    with torch.no_grad():
        training.parameters[0].fill_(float("nan"))
    with pytest.raises(WorkFailedError, match=r"step 0: the loss is nan; samples 0 to 3"):
        training.run()


def test_bad_settings_are_refused(shards, flux, tmp_path):
    with pytest.raises(InputError, match="no data"):
        open_training(config("", tmp_path, flux))
    with pytest.raises(InputError, match="all at least 1"):
        open_training(config(shards, tmp_path, flux, steps=0))
    trained(config(shards, tmp_path, flux, steps=1))
    other = replace(config(shards, tmp_path, flux), condition=ConditionConfig(rank=2, alpha=2.0))
    with pytest.raises(InputError, match=r"condition.rank was 4, is 2; condition.alpha was 4.0, is 2.0"):
        open_training(other)


def test_a_training_starts_from_another_correctors_weights(shards, flux, tmp_path):
    first = trained(config(shards, tmp_path / "first", flux, steps=2))
    name = str(tmp_path / "first" / "corrector")
    second = open_training(replace(config(shards, tmp_path / "second", flux), start_from=name))
    assert second.step == 0
    for one, other in zip(first.parameters, second.parameters, strict=True):
        torch.testing.assert_close(one.to(torch.bfloat16), other.to(torch.bfloat16))
    third = config(shards, tmp_path / "third", flux)
    unlike = replace(third, start_from=name, condition=ConditionConfig(rank=2, alpha=2.0))
    with pytest.raises(InputError, match="has the condition"):
        open_training(unlike)
    with pytest.raises(InputError, match="is no corrector"):
        open_training(replace(third, start_from=str(tmp_path)))


def test_all_subsets_of_the_mix_are_used(shards, flux, tmp_path):
    training = open_training(config(shards, tmp_path, flux))
    used = Counter(training.order.subset_of(n) for n in range(200))
    assert set(used) == {"rule", "editing"}
