"""A score of NaN or infinity never chooses an image: its row fails by name, and none that a block holds is the best."""

import math
from dataclasses import replace

import numpy as np
import pytest

from inference.allocation import AllocationConfig, RoundPlan, Tried, go_on_from, images_for, plan_round
from inference.interfaces import OneCallAnImage
from inference.search import Draft, SearchConfig, SearchTrace, parents_of_next_round, search
from inference.verifier import MeanVerifier
from pipelines.evaluation import SearchResult
from pipelines.runtime.failures import FailurePolicy, execute
from pipelines.stages.filter_pairs import FilterPairs, FilterPairsConfig
from pipelines.stages.score_rewards import ENSEMBLE, ScoreRewards, ScoreRewardsConfig, ensemble_of
from pipelines.stages.select_by_reward import SelectByReward, SelectByRewardConfig
from schemas.errors import UnscoredError
from schemas.records import Reward
from tests.support.scripted_search import Bright, tools
from tests.support.vlm_rows import candidate, image, paired_row

NONE = [math.nan, math.inf, -math.inf]


class Broken(OneCallAnImage):
    """`score` for white images, grey for others."""

    def __init__(self, value):
        self.value = value

    def score(self, images, prompts):
        return np.array([self.value if i.max() == 255 else i.mean() for i in images], np.float32)


@pytest.mark.parametrize("value", NONE)
def test_a_pair_whose_image_has_no_score_is_a_row_s_failure(value):
    fine = replace(paired_row(1), candidates=(candidate(0, 200), candidate(1, 10)))
    stage = FilterPairs(FilterPairsConfig(), 0)
    stage.verifier = Broken(value)
    done, failures = execute(stage, [paired_row(0), fine], FailurePolicy())
    assert [row.quarantine is None for row in done] == [False, True]
    assert "Broken scores image 1 of 2, drawn for 'a red star'" in failures[0].error
    assert done[1].shipped_pairs


@pytest.mark.parametrize("value", NONE)
def test_a_search_does_not_go_on_from_an_image_without_a_score(value):
    class Sometimes(Bright):
        def score(self, images, prompts):
            return np.array([value, *super().score(images, prompts)[1:]], np.float32)

    with pytest.raises(UnscoredError, match="image 1 of 2"):
        search(["a star"], SearchConfig(width=2, depth=1), tools(verifier=Sometimes()))
    with pytest.raises(UnscoredError, match="Sometimes"):
        search(["a star"], SearchConfig(width=2, depth=1), tools(verifier=MeanVerifier([Bright(), Sometimes()])))


@pytest.mark.parametrize("value", NONE)
def test_a_reward_that_is_none_fails_its_row(value):
    stage = ScoreRewards(ScoreRewardsConfig(), 0)
    stage.scorers = {"clip": Broken(value)}
    with pytest.raises(UnscoredError, match="clip scores image 1"):
        stage([paired_row()])
    unscored = candidate(0, 0, rewards=(Reward(ENSEMBLE, value),))
    with pytest.raises(UnscoredError):
        ensemble_of(unscored)
    row = replace(paired_row(), candidates=(unscored, candidate(1, 1, rewards=(Reward(ENSEMBLE, 1.0),))))
    with pytest.raises(UnscoredError):
        SelectByReward(SelectByRewardConfig(), 0)([row])


@pytest.mark.parametrize("value", NONE)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_a_block_holds_is_never_the_best(value, place):
    scores = [-4.0, 2.0]
    scores.insert(place, value)
    best = scores.index(2.0)
    drafts = [
        Draft(number=i, round=0, chain=i, seed=0, prompt="p", image=image(0), score=score)
        for i, score in enumerate(scores)
    ]
    trace = SearchTrace("p", drafts)
    assert trace.best().number == best
    parents = parents_of_next_round(trace, SearchConfig(width=2, carry="topk"))
    assert [parent.number for parent in parents if parent] == [best, scores.index(-4.0)]
    assert go_on_from([Tried(i, score, None if i == 0 else 0) for i, score in enumerate(scores)], 9) == best
    result = SearchResult("", "", "", tuple(scores), (False,) * 3, (0,) * 3, {"clip": tuple(scores)})
    assert result.chosen(3) == result.chosen(3, "clip") == best
    plan = plan_round(scores, 3, 1, AllocationConfig(budget=2.0, sure=6.0))
    assert plan == RoundPlan(True)
    assert images_for(value, 2, plan, AllocationConfig(budget=2.0)) == 2
