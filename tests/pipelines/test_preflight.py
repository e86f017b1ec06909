"""The preflight says what would fail before it does: at loading, at a unit, for want of a GPU, or of weights."""

from dataclasses import replace
from typing import Any, cast

import pytest

from commands.plan import main as plan
from pipelines.node_checks import check_here, homeless, passed
from pipelines.preflight import PACKING, NodeCheck, StageCheck, check_stages
from pipelines.stage import Workers
from recipes import catalogue
from tests.support.toy_job import CheckColors, CheckConfig, ToyConfig, create

ONE_UNIT = ToyConfig(num_prompts=4)


def by_stage(tmp_path, config=ONE_UNIT, schedule: Any = "staged", **options):
    checks = check_stages(create(str(tmp_path / "run"), config), config, schedule, **options)
    return {check.stage: check for check in checks}


@pytest.mark.parametrize("schedule", ["staged", "streaming"])
@pytest.mark.parametrize("difficulty", ["fixed", "quantiles"])
def test_a_sound_run_passes_every_stage_its_barrier_and_the_packing(tmp_path, schedule, difficulty):
    select = replace(ONE_UNIT.select, difficulty=difficulty)
    checks = by_stage(tmp_path, replace(ONE_UNIT, select=select), schedule)
    assert list(checks) == ["draw_squares", "check_colors", "select_pairs", PACKING]
    assert all(check.problem is None and check.not_tried is None for check in checks.values())
    assert all(check.rows == 4 for name, check in checks.items() if name != PACKING)


def test_a_row_that_fails_is_named_with_its_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAIL", "p002")
    checks = by_stage(tmp_path)
    problem = checks["draw_squares"].problem
    assert problem is not None
    assert "1 of 4 prompts fail" in problem
    assert "p002" in problem
    assert "cannot do this one" in problem
    assert checks["check_colors"].problem is None
    assert checks["check_colors"].not_tried is not None
    assert PACKING not in checks


def test_models_that_do_not_load_are_reported_and_the_next_stages_load_all_the_same(tmp_path, monkeypatch):
    def load(self):
        raise RuntimeError("no such kernel on this device")

    monkeypatch.setattr(CheckColors, "load", load)
    checks = by_stage(tmp_path)
    assert checks["draw_squares"].problem is None
    assert "no such kernel on this device" in (checks["check_colors"].problem or "")
    assert checks["select_pairs"].problem is None
    assert checks["select_pairs"].not_tried is not None


def test_stages_that_want_a_gpu_are_left_to_nodes_that_have_one(tmp_path):
    config = replace(ONE_UNIT, check=CheckConfig(workers=Workers(gpus=0.5)))
    checks = by_stage(tmp_path, config, gpus_here=0.0)
    assert checks["check_colors"].not_tried == "its workers want 0.5 GPUs each"
    assert homeless([NodeCheck("a", tuple(checks.values()))]) == ["check_colors"]
    with_gpu = by_stage(tmp_path / "other", config, gpus_here=1.0)
    both = [NodeCheck("a", tuple(checks.values())), NodeCheck("b", tuple(with_gpu.values()))]
    assert homeless(both) == []
    assert passed(both)


def test_one_failure_on_one_node_is_enough_not_to_begin():
    good, bad = StageCheck("rule", "draw", rows=4), StageCheck("rule", "draw", rows=4, problem="it burns")
    assert passed([NodeCheck("a", (good,))])
    assert not passed([NodeCheck("a", (good,)), NodeCheck("b", (bad,))])
    assert not passed([NodeCheck("a", (good,)), NodeCheck("b", (), problem="no weights")])


def test_missing_weights_end_the_check_of_a_node_with_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    node = check_here(catalogue.load("flux", "dataset"), "staged")
    assert not node.passed
    assert "FLUX.1-dev" in (node.problem or "")


@pytest.mark.slow
def test_plan_check_takes_the_micro_models_through_one_unit(capsys):
    small = ["--unit-size", "2", "--generate.candidates-per-prompt", "2"]
    assert plan(["--check", *small]) == 0
    said = capsys.readouterr().out
    assert "the run may begin" in said
    assert "2 rows" in said


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_each_kind_of_node_is_asked_once(monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    from pipelines.runtime.ray import on_each_kind_of_node

    def gpus_and_name(word, gpus):
        if gpus == 2:
            raise ValueError("a broken driver")
        return word, gpus

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for resources in (
            {"num_cpus": 1},
            {"num_cpus": 1},
            {"num_cpus": 2, "num_gpus": 1},
            {"num_cpus": 2, "num_gpus": 2},
        ):
            cluster.add_node(**cast(Any, resources))
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        found = on_each_kind_of_node(gpus_and_name, "hello")
        assert sorted(value for value in found.values() if isinstance(value, tuple)) == [("hello", 0), ("hello", 1)]
        assert any("a broken driver" in value for value in found.values() if isinstance(value, str))
    finally:
        ray.shutdown()
        cluster.shutdown()
