"""A sample is spread over strata, bounded, and the same whatever the order of reading."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report.sampling import StratifiedSample


def _drawn(items: list[tuple[str, str]], limit: int, seed: int = 0) -> list[str]:
    sample: StratifiedSample[None] = StratifiedSample(limit, seed)
    for stratum, key in items:
        sample.add((stratum,), key, None)
    return [drawn.key for drawn in sample.drawn()]


def _items(**counts: int) -> list[tuple[str, str]]:
    return [(stratum, f"{stratum}-{i}") for stratum, count in counts.items() for i in range(count)]


def test_rare_strata_are_shown_whole_and_common_ones_share_the_rest() -> None:
    drawn = _drawn(_items(rare=3, common=1000, other=1000), limit=43)
    assert Counter(key.partition("-")[0] for key in drawn) == {"rare": 3, "common": 20, "other": 20}


@given(st.permutations(_items(a=9, b=5, c=2)), st.integers(0, 20))
def test_order_of_reading_changes_nothing_and_the_limit_holds(items: list[tuple[str, str]], limit: int) -> None:
    drawn = _drawn(items, limit)
    assert drawn == _drawn(_items(a=9, b=5, c=2), limit)
    assert len(drawn) == min(limit, 16)
    assert len(set(drawn)) == len(drawn)


def test_a_prefix_is_the_smaller_sample() -> None:
    items = _items(a=30, b=7)
    assert _drawn(items, 20)[:8] == _drawn(items, 8)


def test_another_seed_draws_others() -> None:
    items = _items(a=200)
    assert set(_drawn(items, 20, seed=1)) != set(_drawn(items, 20, seed=2))


def test_draws_do_not_favour_what_was_read_first() -> None:
    items = _items(a=2000)
    indices = [int(key.partition("-")[2]) for key in _drawn(items, 200)]
    assert 800 < sum(indices) / len(indices) < 1200
    assert indices != sorted(indices)
