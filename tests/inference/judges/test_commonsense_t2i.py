"""CommonsenseT2I's rule: what an image supports, what counts, and how it is averaged."""

import numpy as np
import pytest

from inference.judges.commonsense_t2i import (
    CommonsensePair,
    accuracy_by_category,
    mean_over_pairs,
    means_by,
    pair_accuracy,
    supported,
)

PAIRS = [
    CommonsensePair(("p1", "p2"), ("bright", "dark"), "light"),
    CommonsensePair(("q1", "q2"), ("bright", "grey"), "light"),
    CommonsensePair(("r1", "r2"), ("dark", "grey"), "other"),
]


@pytest.mark.parametrize(
    ("fits", "side"),
    [
        ((True, False), 1),
        ((False, True), 2),
        ((False, False), 0),
        ((True, None), 0),  # as published: an answer that is neither speaks for nothing
        ((None, True), 0),
        ((None, None), 0),
    ],
)
def test_an_image_supports_the_one_description_that_it_fits(fits, side):
    assert {supported(fits, coin) for coin in range(20)} == {side}


def test_one_that_fits_both_is_given_to_either_by_a_coin_that_falls_the_same_again():
    sides = [supported((True, True), 3, pair, 1, 1) for pair in range(400)]
    assert set(sides) == {1, 2}
    assert 160 < sides.count(1) < 240
    assert sides == [supported((True, True), 3, pair, 1, 1) for pair in range(400)]
    assert sides != [supported((True, True), 4, pair, 1, 1) for pair in range(400)]


def test_the_figure_is_the_share_of_tries_with_both_images_right():
    fits = np.array([[[True, True], [True, False]], [[True, False], [True, True]], [[True, False], [True, True]]])
    accuracy = pair_accuracy(fits)
    assert accuracy.tolist() == [0.5, 0.5, 0.5]
    assert accuracy_by_category(PAIRS, accuracy) == {"light": 0.5, "other": 0.5, "avg": 0.5}


def test_avg_is_over_pairs_and_not_over_categories():
    values = np.array([1.0, 1.0, 0.0])
    assert accuracy_by_category(PAIRS, values)["avg"] == pytest.approx(2 / 3)
    interval = mean_over_pairs(PAIRS, values)
    assert interval.value == pytest.approx(2 / 3)
    assert interval.low < 2 / 3 < interval.high
    assert {name: one.value for name, one in means_by(["a", "b", "a"], PAIRS, values).items()} == {"a": 0.5, "b": 1.0}
