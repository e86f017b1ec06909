"""What the rewards are taught is true, and their training resumes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from inference.rewards.clip_reward import ClipReward, ClipRewardConfig
from microworld.scenes.captions import (
    Clause,
    caption_from_clauses,
    is_reserved,
    is_true_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.long_captions import sample_long_caption
from microworld.scenes.world import SHAPES, Background, Scene, SceneObject
from microworld.training import clip_rewards
from microworld.training.clip_rewards import REWARDS, RewardModel, RewardRecipe, build_image_processor, reward_loss
from microworld.training.reward_data import RewardPool, drawn_both_ways, make_examples, near_miss, spoil
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vae_noise import VaeNoise
from microworld.training.vlm_images import PooledImage
from microworld.weights_folder import MICRO_WEIGHTS

TINY = RewardRecipe(
    width=32,
    vision_layers=1,
    text_layers=1,
    batch_size=4,
    chunk_examples=12,
    first_chunks=1,
    num_evaluated=6,
    num_drawn=0,
)


@pytest.fixture(scope="module")
def vae():
    return VaeNoise(MICRO_WEIGHTS / "flux" / "vae", share=0.0)


def test_a_near_miss_is_close_and_not_true():
    rng = np.random.default_rng(0)
    for _ in range(200):
        caption = sample_training_caption(rng)
        scene = sample_scene(rng, caption)
        other = near_miss(rng, caption, scene)
        assert other.tag == caption.tag
        assert not is_true_of(other, scene)
        assert not is_reserved(other)
        changed = sum(a != b for a, b in zip(caption.text.split(), other.text.split(), strict=False))
        assert changed <= 4 + abs(len(caption.text.split()) - len(other.text.split())) * 3


def test_spoiled_images_differ_from_good_ones(vae):
    rng = np.random.default_rng(1)
    scenes = [sample_long_caption(rng)[1] for _ in range(40)]
    from microworld.scenes.world import render

    images = render(scenes).images
    bad = spoil(rng, scenes, images, vae)
    assert bad.shape == images.shape
    assert bad.dtype == np.uint8
    changed = np.abs(bad.astype(int) - images).max((1, 2, 3))
    assert (changed > 30).mean() > 0.95


def test_examples_hold_a_caption_and_what_is_worse(vae):
    for worse in REWARDS.values():
        examples, texts = make_examples(np.random.default_rng(2), 20, worse, vae)
        assert len(examples) == len(texts) == 20
        assert (examples.ids != examples.other_ids).any(1).all()
        if worse != "near_miss":
            assert (examples.good != examples.bad).any((1, 2, 3)).mean() > 0.9


def test_drawn_images_enter_with_what_they_show(vae):
    rng = np.random.default_rng(4)
    star, circle = (SceneObject(shape, "red", 16.0, 16.0, 12.0) for shape in ("star", "circle"))
    blob = replace(star, shape="blob")
    ground = Background("plain", (120, 120, 120), (120, 120, 120), 32)
    caption = caption_from_clauses("single_object", (Clause("star", 1, None, None),))
    white, black = np.full((32, 32, 3), 255, np.uint8), np.zeros((32, 32, 3), np.uint8)
    items = [
        PooledImage(white, Scene(ground, (star,)), caption),
        PooledImage(black, Scene(ground, (circle,)), caption),
        PooledImage(black + 7, Scene(ground, (blob,)), caption),
    ]
    (drawn,) = drawn_both_ways(items)
    assert [i.image[0, 0, 0] for i in drawn.right] == [255]
    assert {int(i.image[0, 0, 0]) for i in drawn.wrong} == {0, 7}
    assert all(drawn.worse(rng, "spoil").image[0, 0, 0] == 7 for _ in range(5))
    assert drawn_both_ways(items[:1]) == drawn_both_ways(items[1:3]) == []
    examples, texts = make_examples(rng, 40, "wrong_image", vae, [drawn])
    taken = (examples.good == 255).all((1, 2, 3))
    assert 8 < taken.sum() < 32
    assert {texts[i] for i in np.flatnonzero(taken)} == {caption.text}
    assert set(examples.bad[taken][:, 0, 0, 0].tolist()) == {0, 7}
    assert set(np.unique(examples.shapes[taken])) == {0, 1 + list(SHAPES).index("star")}


@pytest.mark.parametrize("worse", list(REWARDS.values()))
def test_a_few_steps_on_one_batch_put_it_in_order(vae, worse):
    torch.manual_seed(0)
    rng = np.random.default_rng(3)
    examples, _ = make_examples(rng, 8, worse, vae)
    model = RewardModel(TINY, "cpu")
    optimizer = torch.optim.AdamW(model.modules.parameters(), lr=3e-3)
    losses, ordered = [], 0.0
    for _ in range(30):
        loss, ordered = reward_loss(model, examples, 50, worse, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert ordered >= 0.75


def test_captions_of_scenes_with_the_same_shapes_are_no_negatives():
    logits = torch.zeros(3, 3)
    logits[0, 1] = 50.0  # would be a grave mistake, were it one
    same, other = np.array([7, 7, 1]), np.array([7, 8, 1])
    assert clip_rewards._contrast(logits, same, None) < 1 < clip_rewards._contrast(logits, other, None)


def test_batches_have_texts_of_one_length_and_a_pool_is_found_again(vae, tmp_path):
    RewardPool(tmp_path, 1, "near_miss", vae, chunk=40).grow()
    pool = RewardPool(tmp_path, 1, "near_miss", vae)
    assert len(pool) == 40
    rng = np.random.default_rng(0)
    lengths = [pool.draw(rng, 4)[1] for _ in range(40)]
    assert any(length <= 20 for length in lengths)
    assert any(length > 20 for length in lengths)
    assert max(lengths) <= 64


def test_training_resumes_and_writes_rewards_that_score(tmp_path):
    config = MicroTrainingConfig(
        minutes=0.003, work_dir=tmp_path / "work", out_dir=tmp_path / "out", num_threads=1, seed=4
    )
    shutil.copytree(MICRO_WEIGHTS / "flux" / "vae", tmp_path / "out" / "flux" / "vae")
    clip_rewards.train(config, TINY)
    before = torch.load(tmp_path / "work" / "reward_hps.pt", weights_only=True)["clock"]
    more = 3 * (before["spent_s"] / 60 + 0.001)
    clip_rewards.train(replace(config, minutes=more), TINY)
    after = torch.load(tmp_path / "work" / "reward_hps.pt", weights_only=True)["clock"]
    assert after["num_steps"] > before["num_steps"] > 0
    images = list(np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8))
    values = [
        ClipReward(ClipRewardConfig(model=str(tmp_path / "out" / "rewards" / name))).score(images, ["a star"] * 2)
        for name in REWARDS
    ]
    assert len({round(float(v[0]), 4) for v in values}) == 3
    pixels = build_image_processor()(images=images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, clip_rewards.to_pixel_values(np.array(images)), atol=1e-5)
