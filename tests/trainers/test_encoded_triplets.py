"""Triplets encoded ahead: the same losses for the same sample numbers, the same bytes after a restart, nothing encoded
twice, and next to no time a step."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.generator import GeneratorConfig
from microworld.family import micro_flux
from schemas.errors import WorkFailedError
from tests.support.micro_shards import write_micro_shards
from tests.support.micro_trainings import micro_corrector_training, micro_gpu_corrector_training
from tests.support.plain_shards import write_shards
from tests.support.tiny_models import save_tiny_flux
from trainers.corrector import open_training
from trainers.corrector_batches import BatchConfig, DropConfig
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.shard_dataset import EVEN_MIX, PairDataset
from trainers.shard_encoder import EncodingConfig

LOOP = LoopConfig(
    steps=6, batch_size=8, micro_batch=4, evaluate_every=6, checkpoint_every=1, report_every=1, loader_workers=0
)
EXACT = EncodingConfig(ahead=True, dtype="float32", batch_size=5)
OFTEN_DROPPED = BatchConfig(
    size_px=32, condition_px=32, drop=DropConfig(0.3, 0.3, 0.4), time_shift=0.4, start_share=0.3, difference_weight=2.0
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_micro_shards(tmp_path_factory.mktemp("data"), 40)


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A random one: what is encoded, kept and read again is the same whatever was learnt."""
    return micro_flux(str(save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")), num_steps=1, batch_size=4)


def config(shards, out, flux, encode=EXACT, **changes):
    return replace(
        micro_corrector_training(str(shards), Path(out)),
        generator=GeneratorConfig("flux", flux),
        condition=ConditionConfig(rank=4, alpha=4.0),
        batch=OFTEN_DROPPED,
        mix=EVEN_MIX,
        loop=replace(LOOP, **changes),
        optimizer=OptimizerConfig("adamw", 1e-3),
        num_evaluated=4,
        held_out_share=0.3,
        bf16=False,
        encode=encode,
    )


def losses_by_number(trainable, samples):
    trained = {}
    for batch in trainable.encoded.tensors(samples) if isinstance(samples[0], int) else trainable._batches(samples):
        with torch.no_grad():
            losses = trainable.losses_of(batch).tolist()
        trained |= dict(zip(batch.numbers, zip(batch.subsets, losses, strict=True), strict=True))
    return trained


def test_losses_are_those_of_the_plain_path_for_the_same_samples(shards, flux, tmp_path):
    training = open_training(config(shards, tmp_path, flux))
    trainable, dataset = training.trainable, PairDataset(training.order)
    numbers = list(range(100, 160))
    plain = losses_by_number(trainable, [dataset[n] for n in numbers])
    ahead = losses_by_number(trainable, numbers)
    assert {n: subset for n, (subset, _) in ahead.items()} == {n: subset for n, (subset, _) in plain.items()}
    for n in numbers:
        assert ahead[n][1] == pytest.approx(plain[n][1], rel=2e-4), n
    assert len({round(loss, 4) for _, loss in plain.values()}) > 50  # they do differ from each other
    half = open_training(config(shards, tmp_path / "half", flux, replace(EXACT, dtype="float16"))).trainable
    rounded = losses_by_number(half, numbers)
    assert np.abs([rounded[n][1] / plain[n][1] - 1 for n in numbers]).max() < 0.02


def test_what_is_read_from_disk_is_what_is_kept_in_memory(shards, flux, tmp_path):
    encode = replace(EXACT, cache=tmp_path / "cache")
    kept = open_training(config(shards, tmp_path / "a", flux, encode)).trainable.encoded
    read = open_training(config(shards, tmp_path / "b", flux, replace(encode, keep_on="disk"))).trainable.encoded
    assert kept.num_bytes > 0 == read.num_bytes
    for one, other in zip(kept.tensors(range(40)), read.tensors(range(40)), strict=True):
        for name, value in vars(one).items():
            same = value == getattr(other, name)
            assert same if isinstance(value, list) else same.all(), name


class Killed(Exception):
    pass


@pytest.mark.parametrize("fast_noise", [False, True])
def test_a_killed_training_ends_with_the_same_bytes(shards, flux, tmp_path, fast_noise):
    encode = EncodingConfig(ahead=True, fast_noise=fast_noise)

    def trained(out, kill_at=None):
        def on_step(step, row):
            if step == kill_at:
                raise Killed

        training = open_training(config(shards, out, flux, encode, ema_decay=0.9))
        with contextlib.suppress(Killed):
            training.run(on_step)
        return training

    trained(tmp_path / "whole")
    trained(tmp_path / "killed", kill_at=2)
    trained(tmp_path / "killed", kill_at=5)
    again = trained(tmp_path / "killed")
    assert again.step == 6
    files = [tmp_path / name / "corrector" / "pytorch_lora_weights.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_fast_noise_is_the_same_in_any_micro_batch_and_on_any_rank(shards, flux, tmp_path):
    encoded = open_training(config(shards, tmp_path, flux, replace(EXACT, fast_noise=True))).trainable.encoded

    def noises(*parts):
        return {
            n: noise.sum().item() + t.item()
            for part in parts
            for batch in encoded.tensors(part)
            for n, noise, t in zip(batch.numbers, batch.noise, batch.t, strict=True)
        }

    whole = noises(range(16, 24))
    assert noises(range(16, 20), range(20, 24)) == whole
    (first,), (second,) = (list(encoded.batches(16, 24, 8, rank, 2)) for rank in (0, 1))
    assert noises(second, first) == whole
    assert len(set(whole.values())) == 8
    assert noises(range(8, 16)).values() != whole.values()


def test_what_is_in_the_cache_is_not_encoded_again_whatever_seed_and_mix(shards, flux, tmp_path):
    encode = replace(EXACT, cache=tmp_path / "cache")
    open_training(config(shards, tmp_path / "a", flux, encode))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("encoded_*")}
    assert len(files) == 5  # one a shard
    open_training(replace(config(shards, tmp_path / "b", flux, encode, seed=3), held_out_share=0.1))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("encoded_*")} == files
    other = replace(config(shards, tmp_path / "c", flux, encode), batch=replace(OFTEN_DROPPED, condition_px=16))
    open_training(other)
    assert len(list((tmp_path / "cache").glob("encoded_*"))) == 10


def test_broken_triplets_are_replaced_and_counted_as_without_the_cache(flux, tmp_path, caplog):
    folder = write_shards(tmp_path / "data", ["rule"] * 12, broken=(3, 4))
    training = open_training(replace(config(folder, tmp_path / "out", flux), held_out_share=0.0))
    assert sum("sample skipped" in r.getMessage() for r in caplog.records) == 2
    dataset = PairDataset(training.order)
    plain = losses_by_number(training.trainable, [dataset[n] for n in range(24)])
    ahead = losses_by_number(training.trainable, list(range(24)))
    assert [ahead[n][1] for n in range(24)] == pytest.approx([plain[n][1] for n in range(24)], rel=2e-4)
    assert training.source.num_broken == dataset.num_broken > 0
    training.run()
    assert training.num_broken > dataset.num_broken  # counted on over the steps
    hopeless = write_shards(tmp_path / "hopeless", ["rule"] * 3, broken=(0, 1, 2))
    with pytest.raises(WorkFailedError, match="do not read"):
        open_training(replace(config(hopeless, tmp_path / "b", flux), held_out_share=0.0)).run()


def test_data_takes_little_of_a_step(shards, tmp_path):
    """Of the micro FLUX's step on a CPU: on a GPU the lookups are kernels, and 10,000 samples a second leave 100 us
    for each."""
    flux = micro_flux(num_steps=1, batch_size=4)
    encode = EncodingConfig(ahead=True, fast_noise=True)
    trainable = open_training(config(shards, tmp_path, flux, encode, batch_size=64, micro_batch=64)).trainable
    data_s, step_s = [], []
    for step in range(4):
        started = time.process_time()
        batches = trainable.encoded.tensors(range(64 * step, 64 * step + 64))
        data_s.append(time.process_time() - started)
        for batch in batches:
            trainable.losses_of(batch).mean().backward()
        step_s.append(time.process_time() - started)
    assert min(data_s) < 0.05 * min(step_s)


@pytest.mark.gpu  # it runs on a CPU too, where Inductor takes minutes for it
@pytest.mark.timeout(1200)
def test_the_compiled_transformer_trains_to_the_same_weights(shards, flux, tmp_path):
    flux = replace(flux, size_px=8)
    batch = replace(OFTEN_DROPPED, size_px=8, condition_px=8)
    trained = {}
    for compiled in ("none", "whole"):
        base = config(shards, tmp_path / compiled, flux, EncodingConfig(ahead=True), steps=3)
        training = open_training(replace(base, generator=GeneratorConfig("flux", flux), batch=batch, compile=compiled))
        training.run()
        trained[compiled] = training.parameters
    for plain, compiled in zip(trained["none"], trained["whole"], strict=True):
        torch.testing.assert_close(plain, compiled, atol=2e-4, rtol=0.02)


@pytest.mark.gpu
def test_on_a_gpu_the_small_flux_trains_ten_thousand_samples_a_second(shards, tmp_path):
    base = micro_gpu_corrector_training(str(shards), tmp_path)
    loop = replace(base.loop, steps=60, checkpoint_every=60, evaluate_every=60, report_every=20)
    times = []
    open_training(replace(base, loop=loop, num_evaluated=16)).run(lambda step, row: times.append(time.monotonic()))
    assert 40 * loop.batch_size / (times[-1] - times[19]) > 10_000


def test_other_texts_at_the_same_places_are_encoded_anew(tmp_path, flux):
    """And a folder that moved is not."""
    folder = write_shards(tmp_path / "data", ["rule"] * 16, per_shard=16)

    def encoded(place):
        return open_training(replace(config(place, tmp_path / "out", flux), held_out_share=0.0)).source

    kept = tmp_path / "out" / "cache"
    first = encoded(folder)
    assert len(list(kept.glob("encoded_*"))) == 1
    encoded(folder.rename(tmp_path / "moved"))
    assert len(list(kept.glob("encoded_*"))) == 1
    (shard,) = (tmp_path / "moved").glob("*.tar")
    shard.write_bytes(shard.read_bytes().replace(b"prompt 7", b"a circle"))
    second = encoded(tmp_path / "moved")
    assert len(list(kept.glob("encoded_*"))) == 2
    rows = np.arange(16)
    changed = (first._pooled.take(rows) != second._pooled.take(rows)).any(1)
    assert changed.nonzero().flatten().tolist() == [7]


def test_damaged_caches_are_named_and_made_again(tmp_path, flux, caplog):
    folder = write_shards(tmp_path / "data", ["rule"] * 16, per_shard=16)

    def encoded():
        return open_training(replace(config(folder, tmp_path / "out", flux), held_out_share=0.0)).source

    first, rows = encoded(), np.arange(16)
    for path in sorted((tmp_path / "out" / "cache").glob("*.*")):
        if path.suffix in (".npz", ".safetensors", ".json"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 8
            path.write_bytes(data)
            caplog.clear()
            again = encoded()
            assert torch.equal(*(one._buckets[0].images["good"].take(rows) for one in (first, again)))
            assert path.stem in caplog.text or path.suffix == ".json"  # what only saves reading goes in silence
            assert encoded() is not None
