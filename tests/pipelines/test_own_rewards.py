"""A run with a reward of one's own: its code is looked for before the run is made, and by nothing that only reads."""

from dataclasses import replace

import pytest

from inference.rewards.own import OwnRewardConfig
from inference.rewards.reward import RewardConfig
from pipelines.new_run import digests_of
from pipelines.stages.score_rewards import ScoreRewards, ScoreRewardsConfig
from recipes import micro
from schemas.errors import InputError


def test_code_that_is_not_here_is_told_before_a_run_is_made():
    own = RewardConfig(kind="own", own=OwnRewardConfig("nowhere.at_all:make"))
    rewards = ScoreRewardsConfig((*micro.rewards(), own))
    config = replace(micro.dataset(), subsets=("general",), rewards=rewards)
    with pytest.raises(InputError, match=r"no module 'nowhere\.at_all'"):
        digests_of(config)
    (stage,) = [link for link in config.links()["general"] if link.stage is ScoreRewards]
    assert [reward.name for reward in stage.config.rewards][-1] == "own"
    assert digests_of(replace(config, subsets=("rule",)))
