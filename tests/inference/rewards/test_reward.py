"""The seam: names, weights, who is asked, and that new kinds changed nobody's run."""

from dataclasses import replace

import numpy as np
import pytest

from inference.rewards.clip_reward import ClipRewardConfig
from inference.rewards.own import OwnRewardConfig
from inference.rewards.reward import RewardConfig, used_rewards
from inference.rewards.vqa_score import VqaScoreConfig
from inference.vlm.trained_verifier import TrainedVerifierConfig
from inference.vlm.vlm import VlmConfig
from schemas.configuration import output_config
from schemas.errors import InputError, UnscoredError
from tests.support.tiny_vlm import save_tiny_vlm

VLM = VlmConfig(kind="endpoint", model="", endpoint_model="m", base_url="http://127.0.0.1:9/v1")


def test_a_reward_without_a_name_is_called_as_its_kind():
    rewards = (RewardConfig(), RewardConfig("hps"), RewardConfig(kind="vqa-score", vqa_score=VqaScoreConfig()))
    used = used_rewards(rewards, VLM)
    assert [reward.name for reward in used] == ["clip", "hps", "vqa-score"]
    with pytest.raises(InputError, match=r"rewards \['clip', 'clip'\]"):
        used_rewards((RewardConfig(), RewardConfig()))
    left_out = (RewardConfig(), RewardConfig(weight=0.0), RewardConfig(kind="hpsv3", weight=0.0))
    assert [reward.name for reward in used_rewards(left_out)] == ["clip"]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_make_no_mean_are_refused(weight):
    with pytest.raises(InputError, match="weights"):
        used_rewards((RewardConfig(), RewardConfig("other", weight=weight)))


def test_kinds_that_came_later_do_not_change_a_run():
    (used,) = used_rewards((RewardConfig(),))
    plain = output_config(used, {})
    assert plain.keys() == {"name", "kind", "weight", "clip"}
    assert plain == output_config(RewardConfig("clip", "clip", 1.0, ClipRewardConfig()), {})


def test_whoever_names_no_vlm_asks_the_run_s():
    own = replace(VLM, endpoint_model="other")
    rewards = (
        RewardConfig("a", "vqa-score", vqa_score=VqaScoreConfig()),
        RewardConfig("b", "vqa-score", vqa_score=VqaScoreConfig(own)),
    )
    assert [reward.vqa_score.vlm for reward in used_rewards(rewards, VLM) if reward.vqa_score] == [VLM, own]


def test_what_is_not_configured_is_named():
    with pytest.raises(InputError, match="'hpsv3' has no configuration"):
        used_rewards((RewardConfig(kind="hpsv3"),))
    with pytest.raises(InputError, match="'trained' names no model"):
        used_rewards((RewardConfig(kind="trained", trained=TrainedVerifierConfig()),))
    with pytest.raises(InputError, match="names no callable"):
        RewardConfig(kind="own", own=OwnRewardConfig()).open()


def test_a_vqa_score_is_the_probability_of_yes(tmp_path):
    from inference.interfaces import ChatRequest

    save_tiny_vlm(tmp_path / "vlm")
    vlm = VlmConfig("in-process", str(tmp_path / "vlm"), dtype="float32", device="cpu", answer_floor=0.0)
    (reward,) = used_rewards((RewardConfig(kind="vqa-score", vqa_score=VqaScoreConfig()),), vlm)
    images = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(2)]
    prompts = ["two red stars", "a ring"]
    found = reward.open().score(images, prompts)
    texts = [f'Does this figure show "{prompt}"? Please answer yes or no.' for prompt in prompts]
    requests = [ChatRequest(text, (image,)) for text, image in zip(texts, images, strict=True)]
    assert found.tolist() == vlm.open().first_word_probabilities(requests, ("Yes",))[:, 0].tolist()
    assert ((found > 0) & (found < 1)).all()
    assert reward.open().score([], []).shape == (0,)
    with pytest.raises(UnscoredError, match="does not answer Yes or No"):  # a random model says anything
        VqaScoreConfig(replace(vlm, answer_floor=0.05)).open().score(images, prompts)
    (tmp_path / "no_place.txt").write_text("Is it good?")
    with pytest.raises(InputError, match=r"no \{prompt\}"):
        replace(reward, vqa_score=VqaScoreConfig(vlm, str(tmp_path / "no_place.txt"))).open()
