"""Who gets another round, and from which image a chain goes on: figures worked out by hand, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.allocation import AllocationConfig, RoundPlan, Tried, go_on_from, images_for, plan_round
from schemas.errors import InputError

CONFIG = AllocationConfig(budget=4.0, sure=3.0)


def allotted(best, spent, width=2, config=CONFIG):
    plan = plan_round(best, spent, width, config)
    return [images_for(score, width, plan, config) for score in best]


def test_whoever_the_verifier_is_sure_of_stops_and_the_others_go_on():
    # 4 prompts, 16 images in all, 8 spent: two are unsure and take 2 each.
    assert allotted([3.0, -1.0, 5.0, 2.9], 8) == [0, 2, 0, 2]


def test_what_is_left_goes_to_those_nearest_to_sure():
    # 16 in all, 12 spent: 4 are left, two rounds of one prompt.
    assert allotted([-5.0, 1.0, 2.0, -1.0], 12) == [0, 2, 2, 0]
    assert allotted([-5.0, 1.0, 2.0, -1.0], 14) == [0, 0, 2, 0]


def test_equals_go_on_together_or_not_at_all():
    assert allotted([1.0, 1.0, 1.0, 2.0], 12) == [0, 0, 0, 2]
    assert allotted([1.0, 1.0, 1.0, 1.0], 12) == [0, 0, 0, 0]


def test_an_empty_purse_or_nobody_unsure_ends_it():
    assert plan_round([1.0] * 4, 15, 2, CONFIG) == RoundPlan(False)
    assert plan_round([3.5] * 4, 0, 2, CONFIG) == RoundPlan(False)


@given(
    st.lists(st.floats(-10, 10).map(lambda x: round(x, 1)), min_size=1, max_size=30),
    st.integers(0, 200),
    st.integers(1, 4),
    st.floats(1, 20),
)
def test_the_budget_is_never_passed_and_the_sure_get_nothing(best, spent, width, budget):
    config = AllocationConfig(budget, sure=3.0)
    images = allotted(best, spent, width, config)
    assert sum(images) <= max(0, int(budget * len(best)) - spent)
    assert all(number in (0, width) for number in images)
    assert all(not number for number, score in zip(images, best, strict=True) if score >= 3.0)
    gets = [score for number, score in zip(images, best, strict=True) if number]
    left_out = [s for number, s in zip(images, best, strict=True) if not number and s < 3.0]
    assert not gets or not left_out or min(gets) > max(left_out)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(1, 9))
def test_rounds_played_to_the_end_spend_what_there_is_or_leave_nobody_unsure(starts, budget):
    config, best, spent = AllocationConfig(budget, sure=3.0), list(starts), len(starts)
    for _ in range(200):
        images = allotted(best, spent, 1, config)
        if not any(images):
            break
        spent += sum(images)
        best = [score + 0.1 * (i + 1) * bool(n) for i, (score, n) in enumerate(zip(best, images, strict=True))]
    assert spent <= max(int(budget * len(best)), len(best))
    unsure = [score for score in best if score < 3.0]
    left = int(budget * len(best)) - spent
    assert not unsure or left < 1 or (len(unsure) > left and unsure.count(max(unsure)) > left)


def test_a_chain_corrects_its_best_image():
    chain = [Tried(0, 1.0, None), Tried(2, 2.5, 0), Tried(4, 2.0, 2)]
    assert go_on_from(chain, patience=2) == 2
    assert go_on_from([Tried(0, 1.0, None)], patience=2) == 0
    assert go_on_from([], patience=2) is None


def test_an_image_corrected_in_vain_is_left_for_a_fresh_start():
    chain = [Tried(0, 1.0, None), Tried(2, 0.5, 0), Tried(4, 1.0, 0)]  # no higher: of equals the first is the best
    assert go_on_from(chain, patience=2) is None
    assert go_on_from(chain, patience=3) == 0
    again = [*chain, Tried(6, -2.0, None)]
    assert go_on_from(again, patience=2) == 6  # what was before the fresh start is left behind
    assert go_on_from([*again, Tried(8, 0.0, 6), Tried(10, -1.0, 8)], patience=2) == 8


def test_a_budget_below_one_image_is_refused():
    with pytest.raises(InputError, match="images a prompt"):
        AllocationConfig(budget=0.5)
