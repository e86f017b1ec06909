"""Scores are means of tags; intervals cover what they should, and know that one text is one piece of evidence."""

import math

import numpy as np
import pytest

from inference.judges import intervals
from inference.judges.intervals import Interval, mean_over_tags


def test_the_score_is_the_mean_of_the_tags_shares():
    values, tags = [1, 1, 0, 0, 1], ["a", "a", "a", "a", "b"]
    found = mean_over_tags(values, tags, list("vwxyz"))
    assert found.value == pytest.approx((0.5 + 1) / 2)
    assert found.low <= found.value <= found.high
    assert math.isnan(mean_over_tags([], [], []).value)


def test_one_prompt_has_no_interval():
    one = mean_over_tags([0.5, 0.75], ["a", "a"], ["text", "text"])
    assert str(one) == "0.625"
    assert one.as_list() == [0.625, None, None]
    assert str(Interval.from_list(one.as_list())) == "0.625"
    a_prompt_each = mean_over_tags([1.0, 0.0], ["a", "b"], ["text", "other"])
    assert str(a_prompt_each) == "0.500"
    two = mean_over_tags([1.0, 0.0], ["a", "a"], ["text", "other"])
    assert Interval.from_list(two.as_list()) == two
    assert str(two) == "0.500 [0.000, 1.000]"


def test_it_is_the_same_every_time():
    rng = np.random.default_rng(0)
    values = rng.random(60) < 0.6
    assert mean_over_tags(values, ["a"] * 60, range(60)) == mean_over_tags(values, ["a"] * 60, range(60))


def test_intervals_cover_the_truth_in_about_95_of_100():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        values = rng.random(80) < 0.7
        found = mean_over_tags(values, ["a"] * 40 + ["b"] * 40, list(range(80)))
        hits += found.low <= 0.7 <= found.high
    assert 180 <= hits <= 198


def test_repeated_texts_widen_the_interval():
    values = [1.0] * 50 + [0.0] * 50
    apart = mean_over_tags(values, ["a"] * 100, list(range(100)))
    together = mean_over_tags(values, ["a"] * 100, [i // 25 for i in range(100)])
    assert together.high - together.low > 1.8 * (apart.high - apart.low)


def test_resamples_drawn_in_parts_are_those_drawn_at_once(monkeypatch):
    values, tags, texts = [1.0, 0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b", "b"], list("vwxyz")
    at_once = mean_over_tags(values, tags, texts)
    monkeypatch.setattr(intervals, "MAX_DRAWN", 7)
    assert mean_over_tags(values, tags, texts) == at_once
