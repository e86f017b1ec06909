"""A floor for quality: no good image below it, in any subset that is scored, and nothing where there is none."""

from dataclasses import replace

import pytest

from inference.rewards.reward import RewardConfig
from pipelines.jobs import DatasetConfig
from pipelines.stages.quality_floor import QualityConfig
from pipelines.stages.score_rewards import ENSEMBLE
from pipelines.stages.select_by_reward import SelectByLength, SelectByReward, SelectByRewardConfig
from pipelines.stages.select_pairs import SelectPairs, SelectPairsConfig
from recipes import micro
from schemas.configuration import output_config
from schemas.errors import InputError
from schemas.records import Check, PromptRecord, PromptRow, Reason, Reward
from tests.support.vlm_rows import candidate

FLOOR = QualityConfig(24.0, "hps")
LONG = "long text"


def row(hps, ensemble=None, texts=None, correct=None):
    ensemble = ensemble or hps
    made = []
    for i, (raw, combined) in enumerate(zip(hps, ensemble, strict=True)):
        one = candidate(i, i, texts[i] if texts else LONG, (Reward("hps", raw), Reward(ENSEMBLE, combined)))
        made.append(replace(one, check=Check(correct[i], 0.9 if correct[i] else 0.1)) if correct else one)
    return PromptRow(PromptRecord("general-000000", LONG, "general"), tuple(made))


def scores_of_good(done):
    return [done.candidates[pair.good].rewards[0].value for pair in done.pairs]


def test_only_good_enough_images_are_the_good_ones():
    config = SelectByRewardConfig(pairs_per_prompt=3, quality=FLOOR)
    (done,) = SelectByReward(config, 0)([row([30.0, 24.0, 23.99, 1.0, 2.0, 3.0])])
    assert sorted(scores_of_good(done)) == [24.0, 30.0]
    (long,) = SelectByLength(config, 0)([row([30, 20, 25, 1, 2, 3.0], texts=[LONG] * 3 + ["text"] * 3)])
    assert sorted(scores_of_good(long)) == [25.0, 30.0]
    right = [True, True, True, False, False, False]
    (rule,) = SelectPairs(SelectPairsConfig(top_k=1, quality=FLOOR), 0)([row([3, 4, 25, 1, 2, 3.0], correct=right)])
    assert scores_of_good(rule) == [25.0]


@pytest.mark.parametrize("stage", [SelectByReward, SelectByLength])
def test_a_prompt_without_one_is_rejected_with_what_it_lacks(stage):
    drawn = row([23.5, 20.0, 3.0, 1.0], texts=[LONG] * 2 + ["text"] * 2)
    (done,) = stage(SelectByRewardConfig(quality=FLOOR), 0)([drawn])
    assert (done.rejection.stage, done.rejection.reason) == (stage.name, Reason.LOW_QUALITY)
    assert done.rejection.detail == "hps: the best good image scores 23.5, 24 are needed"
    assert not done.pairs


def test_rule_s_other_reasons_come_first():
    stage = SelectPairs(SelectPairsConfig(quality=FLOOR), 0)
    (wrong,) = stage([row([1.0, 2.0], correct=[False, False])])
    assert wrong.rejection.reason == Reason.ALL_WRONG
    (low,) = stage([row([1.0, 99.0], correct=[True, False])])
    assert low.rejection.reason == Reason.LOW_QUALITY
    assert "scores 1, 24 are needed" in low.rejection.detail


def names(config: DatasetConfig, subset: str) -> list[str]:
    return [link.stage.name for link in config.links()[subset]]


def test_rule_is_scored_where_there_is_a_floor_and_only_then():
    subsets = ("rule", "general", "length")
    without = replace(micro.dataset(), subsets=subsets)
    assert names(without, "rule") == ["generate_candidates", "ground_objects", "select_pairs"]
    for subset in subsets:
        assert "quality" not in output_config(without.links()[subset][-1].config, {})
    floor = replace(without, quality=QualityConfig(20.0))
    assert names(floor, "rule") == ["generate_candidates", "ground_objects", "score_rewards", "select_pairs"]
    first = without.rewards.rewards[0].name
    for subset in subsets:
        assert floor.links()[subset][-1].config.quality == QualityConfig(20.0, first)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        (QualityConfig(1.0, "hpsv9"), "no reward 'hpsv9'"),
        (QualityConfig(1.0, ENSEMBLE), "no scale of its own"),
        (QualityConfig(float("nan")), "a number"),
        (QualityConfig(None, "clip"), "of no height"),
    ],
)
def test_a_floor_that_makes_no_sense_is_refused_before_any_work(quality, said):
    with pytest.raises(InputError, match=said):
        replace(micro.dataset(), quality=quality).links()
    weightless = tuple(replace(reward, weight=0.0) for reward in micro.rewards()[1:])
    rewards = replace(micro.dataset().rewards, rewards=(RewardConfig("mine"), *weightless))
    with pytest.raises(InputError, match="mine"):
        replace(micro.dataset(), rewards=rewards, quality=QualityConfig(1.0, micro.rewards()[1].name)).links()


def test_edits_have_no_floor():
    with pytest.raises(InputError, match="nothing scores"):
        replace(micro.dataset(), subsets=("editing",), quality=QualityConfig(1.0)).links()
