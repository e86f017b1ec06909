"""The simulated cluster: what must hold whatever fails, and that it is arithmetic where nothing does."""

import math
from dataclasses import replace

import pytest

from benchmarks.runtime.cluster_model import Failures, simulate

STAGES = [200.0, 20.0]
OFTEN = Failures(mean_hours=1.0, away_s=300.0, noticed_after_s=30.0)


def run(failures=OFTEN, units=400, gpus=16, **options):
    return simulate(units, STAGES, gpus, 8, failures, load_s=60.0, **options)


def test_without_failures_it_takes_what_division_says():
    result = simulate(64, STAGES, 16, 8, Failures(), spread=0.0)
    assert result.useful_s == pytest.approx(64 * 220.0)
    assert result.wall_s == pytest.approx(64 * 220.0 / 16)
    assert result.lost_s == result.away_s == 0


@pytest.mark.parametrize("seed", range(5))
def test_every_second_of_every_gpu_is_accounted_for(seed):
    result = run(seed=seed, spread=0.0, units=2000)
    assert result.failures > 0
    assert result.useful_s == pytest.approx(2000 * 220.0)  # each unit once in each stage, whatever was lost
    parts = (result.useful_s, result.lost_s, result.away_s, result.idle_s)
    assert all(part >= -1e-6 for part in parts)
    assert sum(parts) == pytest.approx(16 * result.wall_s)


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    assert run(seed=3) == run(seed=3)
    assert run(seed=3) != run(seed=4)


def test_failures_cost_time_and_smaller_units_lose_less():
    safe, unsafe = run(Failures(), units=1600), run(units=1600)
    assert unsafe.wall_s > safe.wall_s
    large = simulate(400, [4 * s for s in STAGES], 16, 8, OFTEN, load_s=60.0)
    assert large.lost_s > 2 * unsafe.lost_s


def test_a_grace_longer_than_a_unit_saves_everything():
    result = run(replace(OFTEN, grace_s=math.inf))
    assert result.lost_s == 0
    assert result.failures > 0
