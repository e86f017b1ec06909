"""A corrector's training on images of several aspects: each triplet in the size nearest to it, batches of one size."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.flux.condition_config import ConditionConfig
from inference.flux.generator import FluxGenerator
from inference.generator import GeneratorConfig
from microworld.family import micro_flux
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.images import decode_image, encode_png
from schemas.shards import ShardSample, encode_shard
from tests.support.micro_trainings import micro_corrector_training
from tests.support.tiny_models import save_tiny_flux
from trainers.corrector import open_training
from trainers.corrector_batches import BatchConfig, BatchMaker, DropConfig, bucket_of, prepare, shaped
from trainers.loop import LoopConfig, OptimizerConfig
from trainers.shard_dataset import EVEN_MIX, PairDataset, Triplet
from trainers.shard_encoder import EncodingConfig
from trainers.training_plan import plan_corrector

SIZES = ("32x32", "40x24", "24x40")
# The last two of an aspect that no size has; the flawed image of the last is of another size than the good one.
SHOTS = (((32, 32), (32, 32)), ((24, 40), (24, 40)), ((40, 24), (40, 24)), ((48, 96), (48, 96)), ((64, 60), (32, 30)))
BATCH = BatchConfig(size_px=32, condition_px=32, drop=DropConfig(0.2, 0.2, 0.2), difference_weight=1.0, sizes=SIZES)
LOOP = LoopConfig(
    steps=3, batch_size=6, micro_batch=3, evaluate_every=3, checkpoint_every=1, report_every=1, loader_workers=0
)


def blocky(rng, height, width):
    return np.kron(rng.integers(0, 255, (-(-height // 8), -(-width // 8), 3), np.uint8), np.ones((8, 8, 1), np.uint8))[
        :height, :width
    ]


def triplet(number, good, bad=None):
    rng = np.random.default_rng(number)
    better, worse = (blocky(rng, *shape) for shape in (good, bad or good))
    return Triplet(number, better, worse, "a photo of a star", "Add a red star.", "rule")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    samples = []
    for number in range(20):
        one = triplet(number, *SHOTS[number % len(SHOTS)])
        good, bad = encode_png(one.good), encode_png(one.bad)
        key, told = f"u{number:06d}-r000-p00", f"{one.reflection} {number}"
        samples.append(ShardSample(key, good, bad, told, f"photo {number}", "rule", {}, image_format="png"))
    for start in (0, 10):
        (folder / f"genref_{start // 10:06d}.tar").write_bytes(encode_shard(samples[start : start + 10]))
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A random one."""
    return micro_flux(str(save_tiny_flux(tmp_path_factory.mktemp("flux") / "flux")), num_steps=1, batch_size=4)


def config(shards, out, flux, encode=None, **changes):
    return replace(
        micro_corrector_training(str(shards), Path(out)),
        generator=GeneratorConfig("flux", flux),
        condition=ConditionConfig(rank=4, alpha=4.0),
        batch=BATCH,
        mix=EVEN_MIX,
        loop=replace(LOOP, **changes),
        optimizer=OptimizerConfig("adamw", 1e-3),
        num_evaluated=4,
        held_out_share=0.3,
        bf16=False,
        encode=encode or EncodingConfig(),
    )


def test_a_triplet_goes_to_the_size_nearest_in_aspect():
    def of(height, width, sizes=SIZES):
        return str(bucket_of(np.zeros((height, width, 3), np.uint8), replace(BATCH, sizes=sizes).buckets))

    assert [of(64, 64), of(60, 64), of(100, 200), of(200, 100)] == ["32x32", "32x32", "40x24", "24x40"]
    assert [of(10, 1000), of(1000, 10)] == ["40x24", "24x40"]
    assert of(16, 32, ("32x32", "64x16")) == "32x32"  # as near to both: the first
    assert of(77, 33, ()) == "32x32"


def test_both_images_just_cover_their_size_and_are_cropped_alike():
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, :, None], (40, 96, 3))
    for seed in range(4):
        sample = prepare(Triplet(0, ramp.copy(), ramp[::2, ::2].copy(), "p", "r", "editing"), BATCH, seed)
        assert sample.good.shape == sample.bad.shape == (24, 40, 3)
        assert np.abs(sample.good.astype(int) - sample.bad).max() <= 3
        shown = int(sample.good[0, -1, 0]) - int(sample.good[0, 0, 0])
        assert shown == pytest.approx(39 * 40 / 24, abs=4)  # scaled by the height, cropped in width
    wide = shaped(ramp, ramp, ImageSize(40, 24), lambda room: 0)[0]
    assert wide[0, 0, 0] <= 2


def test_batches_hold_one_size_and_the_condition_has_the_images_aspect(flux):
    maker = BatchMaker(FluxGenerator(flux), BATCH, ConditionConfig(), 0)
    batches = maker([triplet(n, *SHOTS[n % len(SHOTS)]) for n in range(20)])
    assert sorted(n for batch in batches for n in batch.numbers) == list(range(20))
    seen = set()
    for batch in batches:
        for name in ("x0", "noise", "weight"):
            assert getattr(batch, name).shape[:2] == (len(batch.numbers), len(batch.image_ids))
        rows, columns = (int(batch.image_ids[:, i].max()) + 1 for i in (1, 2))
        shown = tuple(int(batch.condition_ids[:, i].max() - batch.condition_ids[:, i].min()) + 1 for i in (1, 2))
        assert shown == (rows, columns)
        assert int(batch.condition_ids[:, 2].max()) == -1
        seen.add((columns, rows))
        assert torch.allclose(batch.weight.mean(1), torch.ones(1))
    assert seen == {(8, 8), (10, 6), (6, 10)}
    # One sample is the same in any company.
    (alone,) = maker([triplet(3, *SHOTS[3])])
    with_others = next(batch for batch in batches if 3 in batch.numbers)
    place = with_others.numbers.index(3)
    torch.testing.assert_close(alone.x0[0], with_others.x0[place])
    assert torch.equal(alone.noise[0], with_others.noise[place])


def losses(training, samples):
    found = {}
    trainable = training.trainable
    for batch in trainable.encoded.tensors(samples) if trainable.encoded else trainable._batches(samples):
        with torch.no_grad():
            found |= dict(zip(batch.numbers, trainable.losses_of(batch).tolist(), strict=True))
    return found


def test_encoded_ahead_it_is_the_same_training(shards, flux, tmp_path):
    exact = EncodingConfig(ahead=True, dtype="float32", batch_size=3, cache=tmp_path / "cache")
    plain = open_training(config(shards, tmp_path / "plain", flux))
    ahead = open_training(config(shards, tmp_path / "ahead", flux, exact))
    dataset = PairDataset(plain.order)
    # Where nothing is cropped off, the random crop is the middle one.
    whole = [n for n in range(40) if dataset[n].good.shape[:2] in [shape for shape, _ in SHOTS[:3]]]
    expected, got = losses(plain, [dataset[n] for n in whole]), losses(ahead, whole)
    assert len(whole) > 10
    for n in whole:
        assert got[n] == pytest.approx(expected[n], rel=2e-4), n
    from_disk = open_training(config(shards, tmp_path / "disk", flux, replace(exact, keep_on="disk")))
    for one, other in zip(ahead.source.tensors(range(30)), from_disk.source.tensors(range(30)), strict=True):
        for name, value in vars(one).items():
            same = value == getattr(other, name)
            assert same if isinstance(value, list) else same.all(), name


class Killed(Exception):
    pass


@pytest.mark.parametrize("encode", [EncodingConfig(), EncodingConfig(ahead=True, fast_noise=True)])
def test_a_killed_training_ends_with_the_same_bytes_whoever_reads_its_samples(shards, flux, tmp_path, encode):
    def trained(out, kill_at=None, **changes):
        def on_step(step, row):
            if step == kill_at:
                raise Killed

        training = open_training(config(shards, out, flux, encode, **changes))
        with contextlib.suppress(Killed):
            training.run(on_step)
        return training

    trained(tmp_path / "whole")
    trained(tmp_path / "killed", kill_at=1)
    assert trained(tmp_path / "killed", loader_workers=0 if encode.ahead else 1).step == 3
    files = [tmp_path / name / "corrector" / "pytorch_lora_weights.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    drawn = [tmp_path / name / "samples" / "step_00000003.png" for name in ("whole", "killed")]
    sheets = [decode_image(path.read_bytes()) for path in drawn]
    assert np.array_equal(sheets[0], sheets[1])
    assert sheets[0].shape[0] == 3 * 40 * 3  # three rows as high as the highest size, three times as large


def test_fast_noise_is_the_same_in_any_micro_batch_and_on_any_rank(shards, flux, tmp_path):
    encoded = open_training(config(shards, tmp_path, flux, EncodingConfig(ahead=True, fast_noise=True))).source

    def noises(*parts):
        batches = [batch for part in parts for batch in encoded.tensors(part)]
        return {n: float(x.sum()) for batch in batches for n, x in zip(batch.numbers, batch.noise, strict=True)}

    whole = noises(range(12, 18))
    assert noises(range(12, 15), range(15, 18)) == whole
    (first,), (second,) = (list(encoded.batches(12, 18, 6, rank, 2)) for rank in (0, 1))
    assert noises(second, first) == whole


def test_bad_sizes_are_refused_by_name(shards, flux, tmp_path):
    with pytest.raises(InputError, match=r"'wide' is no size\n  field: batch\.sizes"):
        BatchConfig(sizes=("wide",))
    with pytest.raises(InputError, match=r"38x24 px[^\n]*\n  field: batch\.sizes\n.*36x24 or 40x24"):
        BatchMaker(FluxGenerator(flux), replace(BATCH, sizes=("38x24",)), ConditionConfig(), 0)
    with pytest.raises(InputError, match=r"--batch\.sizes"):
        replace(config(shards, tmp_path, flux), generator=GeneratorConfig("flux", flux, sizes=("40x24",)))


def test_the_plan_takes_memory_from_the_largest_size_and_time_from_their_mean(shards, flux, tmp_path):
    def plan(*sizes):
        return plan_corrector(replace(config(shards, tmp_path, flux), batch=replace(BATCH, sizes=sizes)))

    small, large, mixed = plan("32x32"), plan("64x48"), plan("32x32", "64x48")
    assert mixed.memory_gib == large.memory_gib
    assert small.total_gib < large.total_gib
    assert mixed.sample_tflop == pytest.approx((small.sample_tflop + large.sample_tflop) / 2)
    assert "memory at 64x48" in mixed.note
    assert plan().memory_gib == small.memory_gib
