"""How alike images are: by pixels, and by the features of tiny random models of the real classes."""

import numpy as np
import pytest

from inference.likeness.dino import DinoLikenessConfig
from inference.likeness.likeness import LikenessConfig
from inference.likeness.pixels import PixelLikenessConfig
from inference.rewards.clip_reward import ClipRewardConfig
from schemas.configuration import model_names
from schemas.errors import InputError, MissingWeightsError

IMAGES = [np.random.default_rng(i).integers(0, 255, (32, 40, 3), np.uint8) for i in range(3)]
IMAGES += [IMAGES[0].copy(), np.zeros((16, 16, 3), np.uint8), np.full((64, 48, 3), 255, np.uint8)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import torch

    from microworld.training.clip_rewards import RewardRecipe, build_clip, save

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    save(build_clip(RewardRecipe(width=32, vision_layers=1, text_layers=1)), folder)
    return LikenessConfig("clip", clip=ClipRewardConfig(model=str(folder), batch_size=4))


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    shape = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(shape).save_pretrained(folder)
    square = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=square).save_pretrained(folder)
    return LikenessConfig("dino", dino=DinoLikenessConfig(model=str(folder), batch_size=4))


@pytest.fixture(params=["pixels", "clip", "dino"])
def seam(request):
    return LikenessConfig("pixels") if request.param == "pixels" else request.getfixturevalue(request.param)


def test_equal_images_are_wholly_alike_and_each_two_alike_both_ways(seam):
    likeness = seam.open()
    matrix = likeness.between(IMAGES)
    assert matrix.shape == (6, 6)
    assert matrix == pytest.approx(matrix.T, abs=1e-6)
    assert np.diag(matrix) == pytest.approx(np.ones(6), abs=1e-6)
    assert matrix[0, 3] == pytest.approx(1, abs=1e-6)
    assert matrix.max() <= 1
    assert matrix[0, 1] < 0.999
    assert likeness.between([]).shape == (0, 0)


def test_it_depends_on_the_two_images_alone(seam):
    likeness = seam.open()
    together = likeness.between(IMAGES)
    alone = likeness.between([IMAGES[1], IMAGES[5]])
    assert alone[0, 1] == pytest.approx(together[1, 5], abs=1e-5)


def test_pixels_are_compared_where_they_lie():
    likeness = PixelLikenessConfig().open()
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    half = black.copy()
    half[:, :16] = 255
    matrix = likeness.between([black, white, half, half[:, ::-1]])
    assert matrix[0, 1] == 0
    assert matrix[0, 2] == matrix[1, 2] == pytest.approx(0.5)
    assert matrix[2, 3] == 0
    assert likeness.between([black, np.zeros((90, 33, 3), np.uint8)])[0, 1] == 1


def test_only_the_chosen_kind_is_a_run_s_model():
    assert model_names(LikenessConfig("pixels").only_what_is_used()) == ()
    assert model_names(LikenessConfig("dino").only_what_is_used()) == ("facebook/dinov2-base",)
    assert model_names(LikenessConfig().only_what_is_used()) == ("openai/clip-vit-large-patch14",)


def test_bad_input_is_told(tmp_path, clip):
    with pytest.raises(InputError, match="0 cells"):
        PixelLikenessConfig(0)
    with pytest.raises(MissingWeightsError, match="nowhere/dino"):
        DinoLikenessConfig("nowhere/dino").open()
    with pytest.raises(InputError, match="'clip' model"):
        DinoLikenessConfig(clip.clip.model).open()
