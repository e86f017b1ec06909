"""A worker that hangs or is frozen: its unit is done elsewhere. A row that hangs, or ends its worker, is found."""

import threading
import time

import psutil
import pytest

from pipelines.conservation import verify
from pipelines.driver import RunOptions, drive
from pipelines.runtime.failures import FailurePolicy
from tests.soak.arena import stage_worker
from tests.support import toy_runs
from tests.support.processes import wait_until
from tests.support.toy_job import ToyConfig, create

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_what_no_worker_comes_back_with_is_tried_elsewhere_and_then_found(tmp_path, monkeypatch, capsys):
    import ray

    from pipelines.runtime.ray import connect

    monkeypatch.setattr("pipelines.runtime.ray.LOOK_EVERY_S", 0.5)
    monkeypatch.setattr("pipelines.runtime.ray.WARN_EVERY_S", 1.0)
    monkeypatch.setattr("pipelines.runtime.ray_pool.CRASHES_PER_UNIT", 1)
    monkeypatch.setattr("pipelines.runtime.ray_pool.CRASHES_WITH_CARE", 1)
    monkeypatch.setenv("TOY_HANG", "p001")
    monkeypatch.setenv("TOY_DIE", "p004")
    monkeypatch.setenv("TOY_SLEEP_S", "1")
    path, calls, frozen = tmp_path / "run", tmp_path / "calls", []
    monkeypatch.setenv("TOY_CALLS", str(calls))
    config = ToyConfig(num_prompts=6, unit_size=1)
    folder = create(str(path), config)
    since = time.time()

    def freeze() -> None:
        wait_until(lambda: any(call[0] == "check_colors" for call in toy_runs.calls(calls)), 300)
        worker = stage_worker(path, "check_colors", since)
        if worker is not None:
            frozen.append(worker)
            worker.suspend()

    freezing = threading.Thread(target=freeze, daemon=True)
    connect()
    try:
        freezing.start()
        assert drive(folder, config, RunOptions(runtime="ray", failures=FailurePolicy(unit_limit_s=20.0)))
    finally:
        ray.shutdown()
    freezing.join(60)
    assert frozen
    wait_until(lambda: is_gone(frozen[0]))
    found = {entry["prompt_id"]: entry["error"] for entry in folder.quarantined()}
    assert set(found) == {"p001", "p004"}
    assert "no answer within 0:20" in found["p001"]
    assert "its worker died" in found["p004"]
    assert verify(folder, config, deep=True) == []
    assert list(path.glob("given_up/*/*")) == []
    said = capsys.readouterr().err
    assert "draw_squares: 1 workers: at work on unit 1 for 0:" in said


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
