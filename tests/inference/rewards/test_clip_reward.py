"""ClipReward on a tiny random CLIPModel: the model's own scores, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest

from inference.rewards.clip_reward import ClipReward, ClipRewardConfig
from schemas.errors import InputError, MissingWeightsError

IMAGES = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(5)]
PROMPTS = ["a photo of a star", "a photo of two rings", "a photo of a star", "a star left of a ring", "rings"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    import torch

    from microworld.training.clip_rewards import RewardRecipe, build_clip, save

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save(build_clip(RewardRecipe(width=32, vision_layers=1, text_layers=1)), folder)
    return ClipRewardConfig(model=str(folder), batch_size=2)


def test_scores_are_the_model_s_logits_per_image(config):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(config.model, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(config.model)(PROMPTS, padding=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(config.model)(images=IMAGES, return_tensors="pt")
    with torch.inference_mode():
        logits = model(input_ids=tokens.input_ids, **pixels).logits_per_image
    scores = ClipReward(config).score(IMAGES, PROMPTS)
    assert scores.shape == (5,)
    assert scores == pytest.approx(logits.diagonal().numpy(), abs=1e-3)


def test_a_score_does_not_depend_on_the_batch(config):
    together = ClipReward(config).score(IMAGES, PROMPTS)
    other_size = ClipReward(replace(config, batch_size=3))
    assert other_size.score(IMAGES, PROMPTS) == pytest.approx(together, abs=1e-4)
    alone = ClipReward(config)
    assert alone.score([IMAGES[3]], [PROMPTS[3]])[0] == together[3]
    assert alone.score([], []).shape == (0,)


def test_images_of_any_size_and_prompts_of_any_length_are_scored(config):
    large = IMAGES[0].repeat(3, axis=0).repeat(3, axis=1)
    assert np.isfinite(ClipReward(config).score([large], ["a star and " * 100])).all()


def test_bad_input_is_told(config, tmp_path):
    with pytest.raises(InputError, match="5 images with 1 prompts"):
        ClipReward(config).score(IMAGES, PROMPTS[:1])
    with pytest.raises(MissingWeightsError, match="nowhere/clip"):
        ClipReward(replace(config, model="nowhere/clip"))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="'vit'"):
        ClipReward(replace(config, model=str(tmp_path)))
