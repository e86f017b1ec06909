"""One SIGTERM to a driver on Ray: the blocks at hand are committed, and the same command goes on, same bytes."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support import toy_runs
from tests.support.processes import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[3]
NUM_PROMPTS = 18


def begun(path: Path, stage: str) -> int:
    """Calls of a stage that have begun."""
    return sum(call[0] == stage for call in toy_runs.calls(path))


@pytest.mark.parametrize(("own_cluster", "to_group"), [(True, True), (False, False)], ids=["own, group", "joined"])
def test_one_sigterm_finishes_the_blocks_at_hand(tmp_path, undisturbed, monkeypatch, own_cluster, to_group):
    from tests.soak.arena import Arena

    path, calls, said, heard = tmp_path / "run", tmp_path / "calls", tmp_path / "said", tmp_path / "heard"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TOY_CALLS", str(calls))  # workers of the joined cluster have the environment of this moment
    monkeypatch.setenv("TOY_HANG", "p004")  # the second unit is at work until the driver has heard
    monkeypatch.setenv("TOY_HANG_UNTIL", str(heard))
    with nullcontext() if own_cluster else Arena(sleep_s=0.1) as joined, open(said, "w") as output:
        environment = {**os.environ} | ({} if joined is None else {"RAY_ADDRESS": joined.address})
        command = [sys.executable, "-m", "tests.soak.toy_on_ray", str(path), "0", str(NUM_PROMPTS)]
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            # The blocks of the first unit are there.
            wait_until(lambda: driver.poll() is not None or len(toy_runs.blocks(path)) == 3, 300)
            wait_until(lambda: driver.poll() is not None or begun(calls, "draw_squares") == 2, 300)
            assert driver.poll() is None, said.read_text()
            committed = toy_runs.stamps(path)
            if to_group:
                os.killpg(driver.pid, signal.SIGTERM)
            else:
                driver.terminate()
            wait_until(lambda: driver.poll() is not None or "stopping after" in said.read_text(), 300)
            heard.touch()
            code = driver.wait(timeout=300)
        finally:
            driver.kill()
    words = said.read_text()
    assert code == 1, words
    assert "stopping after the block at hand" in words
    assert "SIGTERM received at" not in words
    assert not (path / "lease.json").exists()
    stopped = toy_runs.stamps(path)
    # What had begun is there: every call of a stage, and nothing was called in vain.
    made = begun(calls, "draw_squares") + begun(calls, "check_colors")
    drawn = len(toy_runs.blocks(path, "draw_squares")) + len(toy_runs.blocks(path, "check_colors"))
    assert len(committed) < len(stopped) < len(toy_runs.blocks(undisturbed))
    assert made == drawn
    assert toy_runs.run(path)
    assert stopped.items() <= toy_runs.stamps(path).items()
    assert toy_runs.shards(path) == toy_runs.shards(undisturbed)
