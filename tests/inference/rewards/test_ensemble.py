"""Rewards of different scales become one."""

import numpy as np
import pytest

from inference.rewards.ensemble import EnsembleConfig, combine_rewards, standardise
from schemas.errors import InputError

SCORES = {"clip": np.array([20.0, 22.0, 21.0]), "hps": np.array([0.1, 0.3, 0.2])}


@pytest.mark.parametrize("method", ["z", "rank"])
def test_scale_and_offset_of_a_scorer_do_not_matter(method):
    config = EnsembleConfig(method)
    shifted = SCORES | {"hps": 1000 * SCORES["hps"] - 7}
    assert combine_rewards(SCORES, config) == pytest.approx(combine_rewards(shifted, config))
    assert combine_rewards(SCORES, config).argsort().tolist() == [0, 2, 1]
    assert combine_rewards(SCORES, config).mean() == pytest.approx(0)


def test_z_keeps_distances_and_ranks_do_not():
    values = np.array([0.0, 1.0, 10.0])
    z, rank = standardise(values, "z"), standardise(values, "rank")
    assert (z[2] - z[1]) / (z[1] - z[0]) == pytest.approx(9)
    assert rank.tolist() == [-1.0, 0.0, 1.0]
    assert z.std() == pytest.approx(1)
    assert standardise(np.array([1.0, 1.0, 2.0]), "rank").tolist() == [-0.5, -0.5, 1.0]


def test_a_scorer_without_an_opinion_adds_nothing():
    flat = combine_rewards({"clip": SCORES["clip"], "pick": np.full(3, 4.0)})
    assert flat == pytest.approx(standardise(SCORES["clip"], "z") / 2)
    assert combine_rewards({"clip": np.array([3.0])}).tolist() == [0.0]
    assert combine_rewards({"clip": np.zeros(0)}).tolist() == []


def test_weights_are_one_a_scorer():
    only_clip = combine_rewards(SCORES, weights=(1.0, 0.0))
    assert only_clip == pytest.approx(standardise(SCORES["clip"], "z"))
    for weights in ((1.0,), (0.0, 0.0), (2.0, -1.0)):
        with pytest.raises(InputError, match="weights"):
            combine_rewards(SCORES, weights=weights)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InputError, match="no rewards"):
        combine_rewards({})
    with pytest.raises(InputError, match="'hps': 2"):
        combine_rewards({"clip": np.zeros(3), "hps": np.zeros(2)})
    with pytest.raises(InputError, match="finite"):
        combine_rewards({"clip": np.array([0.0, np.nan])})
