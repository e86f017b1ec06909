"""One SIGTERM to a driver on Ray: the blocks at hand are committed, and the same command goes on, same bytes."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support import toy_runs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[3]
NUM_PROMPTS = 18


def begun(path: Path, stage: str) -> int:
    """Calls of a stage that have begun."""
    return sum(call[0] == stage for call in toy_runs.calls(path))


@pytest.mark.parametrize(("own_cluster", "to_group"), [(True, True), (False, False)], ids=["own, group", "joined"])
def test_one_sigterm_finishes_the_blocks_at_hand(tmp_path, undisturbed, own_cluster, to_group):
    from tests.soak.arena import Arena

    path, calls, said = tmp_path / "run", tmp_path / "calls", tmp_path / "said"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TOY_SLEEP_S": "1.5", "TOY_CALLS": str(calls)}
    environment.pop("RAY_ADDRESS", None)
    os.environ["TOY_CALLS"] = str(calls)  # workers of the joined cluster have its environment
    arena = nullcontext(None) if own_cluster else Arena(sleep_s=1.5)
    with arena as joined, open(said, "w") as output:
        if joined is not None:
            environment["RAY_ADDRESS"] = joined.address
        command = [sys.executable, "-m", "tests.soak.toy_on_ray", str(path), "0", str(NUM_PROMPTS)]
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            # A block is there and the next one is at work.
            while begun(calls, "draw_squares") < 2 or not toy_runs.blocks(path):
                assert time.monotonic() < deadline, said.read_text()
                assert driver.poll() is None, said.read_text()
                time.sleep(0.02)
            committed = toy_runs.stamps(path)
            if to_group:
                os.killpg(driver.pid, signal.SIGTERM)
            else:
                driver.terminate()
            code = driver.wait(timeout=60)
        finally:
            driver.kill()
            del os.environ["TOY_CALLS"]
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
