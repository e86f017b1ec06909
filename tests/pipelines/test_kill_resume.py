"""A driver that is killed, interrupted or told to end, at any moment: the run goes on, and ends with the same bytes."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from pipelines.conservation import verify
from tests.support import toy_job
from tests.support.held_processes import hold_commits
from tests.support.toy_runs import blocks, is_free, shards, stamps

# Every driver is forked from one process that has imported everything: seconds saved, and as real a process.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "pyarrow.parquet", "tests.support.toy_job"])


def drive(run: str, output: str, environment: dict[str, str]) -> None:
    """A driver in its own process."""
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
    if "MOST_SHARD_FILES" in environment:
        hold_commits(int(environment["MOST_SHARD_FILES"]), "shards/")
    sys.exit(toy_job.main([run]))


class Driver:
    """A driver process and what it prints."""

    def __init__(self, run: Path, **environment: str) -> None:
        self.output = run.parent / "output.txt"
        self.output.unlink(missing_ok=True)
        self.process = CONTEXT.Process(target=drive, args=(str(run), str(self.output), environment))
        self.process.start()

    def wait_for(self, condition, timeout_s: float = 200) -> None:
        until = time.monotonic() + timeout_s
        lives = True
        while not condition():
            assert lives, self.printed()
            lives = self.process.is_alive()  # what it did before it ended is looked at once more
            assert time.monotonic() < until, self.printed()
            time.sleep(0.005)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> int | None:
        self.process.join(timeout=200)
        return self.process.exitcode

    def printed(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def test_a_driver_killed_three_times_leaves_the_same_shards_and_makes_no_block_twice(tmp_path, undisturbed):
    run = tmp_path / "run"
    moments = random.Random(0)
    kept = {}
    for attempt in range(3):
        # None comes further than a unit more than the one before it, however late it is killed.
        driver = Driver(run, TOY_SLEEP_S="0.02", TOY_HANG=f"p{4 * (attempt + 1):03d}")
        # At least one block further, so that three kills fall on three different places.
        driver.wait_for(lambda before=kept: len(blocks(run)) > len(before))
        time.sleep(moments.uniform(0, 0.05))
        driver.send(signal.SIGKILL)
        assert driver.end() == -signal.SIGKILL
        assert not is_free(run)
        now = stamps(run)
        assert kept.items() <= now.items()
        kept = now
        assert 0 < len(kept) < 15, f"kill {attempt} came too late"
    assert Driver(run).end() == 0
    after = stamps(run)
    assert kept.items() <= after.items()
    assert len(after) == 15
    assert shards(run) == shards(undisturbed)
    assert verify(*toy_job.open_run(str(run)), deep=True) == []
    assert list(run.rglob(".tmp-*")) == []
    assert is_free(run)


def test_a_driver_killed_while_it_packs_leaves_the_same_shards(tmp_path, undisturbed):
    run = tmp_path / "run"
    driver = Driver(run, TOY_SLEEP_S="0.02", MOST_SHARD_FILES="3")
    driver.wait_for(lambda: (run / "shards").exists())
    driver.send(signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    assert len(list((run / "shards").iterdir())) < len(shards(undisturbed))
    assert Driver(run).end() == 0
    assert shards(run) == shards(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_block_at_hand_and_stops(tmp_path, undisturbed, number):
    run, heard = tmp_path / "run", tmp_path / "heard"
    driver = Driver(run, TOY_SLEEP_S="0.2", TOY_HANG="p008", TOY_HANG_UNTIL=str(heard))
    driver.wait_for(lambda: blocks(run))
    driver.send(number)
    driver.wait_for(lambda: "stopping after" in driver.printed())
    heard.touch()
    assert driver.end() == 1
    assert "stopping after the block at hand; once more to stop now" in driver.printed()
    assert "Traceback" not in driver.printed()
    done = stamps(run)
    assert 0 < len(done) < 15
    assert list(run.rglob(".tmp-*")) == []
    assert is_free(run)
    assert Driver(run).end() == 0
    assert done.items() <= stamps(run).items()
    assert shards(run) == shards(undisturbed)


def test_two_signals_stop_at_once_in_the_middle_of_a_block(tmp_path, undisturbed):
    run = tmp_path / "run"
    calls = tmp_path / "calls.txt"
    driver = Driver(run, TOY_SLEEP_S="600", TOY_CALLS=str(calls))
    driver.wait_for(calls.exists)
    driver.send(signal.SIGINT)
    driver.wait_for(lambda: "stopping after" in driver.printed())
    started = time.monotonic()
    driver.send(signal.SIGINT)
    assert driver.end() == 130
    assert time.monotonic() - started < 100  # it would be at the block for ten minutes
    assert blocks(run) == []
    assert Driver(run).end() == 0
    assert shards(run) == shards(undisturbed)


def test_what_hangs_is_named_and_is_in_quarantine_after_two_resumes(tmp_path):
    run = tmp_path / "run"
    config = toy_job.ToyConfig(num_prompts=3, unit_size=1)
    toy_job.create(str(run), config)
    hangs = {"TOY_HANG": "p001", "TOY_LIMIT_S": "4"}
    for _ in range(2):  # the first time it may have been the worker
        driver = Driver(run, **hangs)
        assert driver.end() == 1
        assert "draw_squares: at unit 1: no answer within 0:" in driver.printed()
    found = Driver(run, **hangs)
    assert found.end() == 0, found.printed()
    folder, _ = toy_job.open_run(str(run))
    (entry,) = folder.quarantined()
    assert (entry["prompt_id"], entry["unit"]) == ("p001", 1)
    assert "no answer within 0:" in entry["error"]
    assert verify(folder, config, deep=True) == []
    assert list(run.glob("given_up/*/*")) == []


def test_a_second_driver_ends_with_exit_code_3_and_the_first_goes_on(tmp_path, undisturbed):
    run, refused = tmp_path / "run", tmp_path / "refused"
    first = Driver(run, TOY_HANG="p008", TOY_HANG_UNTIL=str(refused))
    first.wait_for(lambda: blocks(run))
    second = Driver(run)
    assert second.end() == 3
    assert "--take-over" in second.printed()
    refused.touch()
    assert first.end() == 0
    assert shards(run) == shards(undisturbed)
