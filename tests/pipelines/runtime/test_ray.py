"""The Ray runtime on a real local cluster: the same bytes as `local`, whatever is killed (nodes: `test_ray_faults`)."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import psutil
import pytest

from tests.support import toy_runs
from tests.support.processes import wait_until
from tests.support.toy_job import open_run
from tests.support.toy_runs import run_on_ray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]
LAST_PROMPT = "p017"


@pytest.fixture(scope="module")
def may_end(tmp_path_factory):
    """The last unit of a run on `cluster` is drawn when this file is there, as it is unless a test takes it away."""
    file = tmp_path_factory.mktemp("cluster") / "may_end"
    file.touch()
    return file


@pytest.fixture(scope="module")
def cluster(may_end):
    """A local cluster whose workers are slow enough to be killed at work."""
    import ray

    from pipelines.runtime.ray import connect

    environment = {"TOY_SLEEP_S": "0.15", "TOY_HANG": LAST_PROMPT, "TOY_HANG_UNTIL": str(may_end)}
    with mock.patch.dict(os.environ, environment):
        connect()
        yield ray
        ray.shutdown()


def stage_workers() -> list[psutil.Process]:
    """Processes of our actors, at work or waiting: those of this process's cluster, not of any other beside it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("ray::StageActor" in part for part in process.cmdline()):
                found.append(process)
    return found


class Killer(threading.Thread):
    """Kills `count` workers of the run with SIGKILL, at random moments; before that it cannot end."""

    def __init__(self, count: int, seed: int, may_end: Path) -> None:
        super().__init__(daemon=True)
        self.may_end = may_end
        may_end.unlink()
        self.left, self.random, self.over = count, random.Random(seed), threading.Event()
        self.killed: list[int] = []

    def run(self) -> None:
        while self.left and not self.over.wait(self.random.uniform(0.2, 1.0)):
            if workers := stage_workers():
                victim = self.random.choice(workers)
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                    victim.send_signal(signal.SIGKILL)
                    self.killed.append(victim.pid)
                    self.left -= 1
        self.may_end.touch()


@pytest.mark.parametrize("schedule", ["streaming", "staged"])
def test_ray_gives_the_same_shard_bytes_as_local(cluster, undisturbed, tmp_path, schedule):
    assert run_on_ray(tmp_path / "run", schedule=schedule)
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(undisturbed)


def test_killed_workers_are_replaced_and_the_bytes_are_the_same(cluster, may_end, undisturbed, tmp_path):
    killer = Killer(count=3, seed=0, may_end=may_end)
    killer.start()
    try:
        assert run_on_ray(tmp_path / "run")
    finally:
        killer.over.set()
        killer.join()
    assert len(killer.killed) == 3
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(undisturbed)


def test_a_missing_block_is_made_again_and_no_other(cluster, undisturbed, tmp_path):
    path = tmp_path / "run"
    assert run_on_ray(path)
    victim = toy_runs.blocks(path, "draw_squares")[1]
    before = toy_runs.stamps(path)
    victim.unlink()
    (path / "shards" / "genref_000000.json").unlink()
    assert run_on_ray(path, check_blocks=True)
    after = toy_runs.stamps(path)
    assert {block for block in before if before[block] != after[block]} == {victim}
    assert toy_runs.shards(path) == toy_runs.shards(undisturbed)


def test_the_driver_killed_and_started_again_goes_on_with_the_same_bytes(undisturbed, tmp_path):
    path = tmp_path / "run"
    script = (
        "import sys; from pathlib import Path; from tests.support.toy_runs import run_on_ray; "
        "sys.exit(0 if run_on_ray(Path(sys.argv[1])) else 1)"
    )
    killed = tmp_path / "killed"
    environment = os.environ | {"TOY_SLEEP_S": "0.3", "PYTHONPATH": str(ROOT)}
    environment |= {"TOY_HANG": LAST_PROMPT, "TOY_HANG_UNTIL": str(killed)}
    command = [sys.executable, "-c", script, str(path)]
    driver = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_until(lambda: len(toy_runs.blocks(path)) >= 3 or driver.poll() is not None, 300)
    assert driver.poll() is None, "the driver ended before it could be killed"
    driver.kill()
    driver.wait()
    killed.touch()
    committed = toy_runs.stamps(path)
    assert 3 <= len(committed) < len(toy_runs.blocks(undisturbed))
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    after = toy_runs.stamps(path)
    # A worker that outlives its driver for a moment may commit one block more; none is ever made twice.
    assert all(after[block] == stamp for block, stamp in committed.items())
    assert toy_runs.shards(path) == toy_runs.shards(undisturbed)


def test_bad_rows_are_quarantined_on_workers_too(cluster, tmp_path, monkeypatch):
    import ray

    from pipelines.runtime.ray import connect

    ray.shutdown()  # workers read the environment when they start
    monkeypatch.setenv("TOY_FAIL", "p005")
    connect()
    path = tmp_path / "run"
    assert run_on_ray(path)
    folder, _ = open_run(str(path))
    assert [entry["prompt_id"] for entry in folder.quarantined()] == ["p005"]
