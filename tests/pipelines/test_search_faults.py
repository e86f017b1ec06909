"""A search that is killed at random ten times, or done by two Ray workers, ends with the same results."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest

from commands.main import main
from commands.runs import open_run
from pipelines.conservation import verify
from tests.support.held_processes import hold_commits

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "diffusers", "transformers", "pyarrow.parquet", "commands.search"])
KILLS = 10


def arguments(run, num_prompts=60, depth=3):
    return [
        *("search", "--run", str(run), "--num-prompts", str(num_prompts), "--unit-size", "4", "--num-threads", "1"),
        *("--search.strategy", "noise+prompt", "--search.width", "1", "--search.depth", str(depth), "--quiet"),
        *("--tools.generator.flux.num-steps", "1", "--preset", "micro-paper"),
    ]


def drive(argv, output, most_blocks):
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if most_blocks is not None:
        hold_commits(most_blocks, ".parquet")
    sys.exit(main(argv))


def start(run, most_blocks=None):
    """With `most_blocks` it commits no more, and is there to be killed."""
    process = CONTEXT.Process(target=drive, args=(arguments(run), str(run.parent / "output.txt"), most_blocks))
    process.start()
    return process


def blocks(run):
    return {p.relative_to(run): p.read_bytes() for p in (run / "stages").rglob("*.parquet")}


def results(run):
    return (run / "evaluation" / "results.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_search_killed_ten_times_at_random_ends_with_the_same_results(tmp_path):
    undisturbed, run, moments = tmp_path / "undisturbed", tmp_path / "killed" / "run", random.Random(11)
    run.parent.mkdir()
    process = start(undisturbed)
    process.join()
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
    num_blocks, kept = len(blocks(undisturbed)), {}
    for kill in range(KILLS):
        process = start(run, num_blocks // (KILLS + 1))
        # A few blocks further each time, so that ten kills fall on ten places of the run.
        wanted, until = len(kept) + num_blocks // (KILLS + 4), time.monotonic() + 300
        while process.is_alive() and len(list((run / "stages").rglob("[0-9]*.parquet"))) < wanted:
            assert time.monotonic() < until, (run.parent / "output.txt").read_text()
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {kill} came too late"
        now = blocks(run)
        assert kept.items() <= now.items()  # nothing that was committed is made again
        kept = now
    process = start(run)
    process.join()
    assert process.exitcode == 0, (run.parent / "output.txt").read_text()
    assert blocks(run) == blocks(undisturbed)
    assert results(run) == results(undisturbed)
    assert verify(*open_run(str(run)), deep=True) == []


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_ray_workers_find_what_one_process_finds(tmp_path):
    local, ray = tmp_path / "local", tmp_path / "ray"
    assert main(arguments(local, num_prompts=12, depth=2)) == 0
    on_ray = ["--runtime", "ray", "--workers.count", "2", "--workers.cpus", "0.5"]
    assert main([*arguments(ray, num_prompts=12, depth=2), *on_ray]) == 0
    assert blocks(ray) == blocks(local)
    assert results(ray) == results(local)
