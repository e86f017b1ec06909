"""Two commands at one moment on one new folder, and a driver that was frozen while another took over."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.pause_everything import CONFIG, Scenario, _in_child, _run, contents, play, problems_of
from tests.support.toy_job import open_run
from tests.support.toy_runs import run

ROOT = Path(__file__).parents[2]
START = """
import sys
from dataclasses import replace
from commands.run import RunArgs, start
from pipelines.jobs import DatasetConfig
from recipes import catalogue
from schemas.errors import ReflectionFlowError
dataset = replace(catalogue.load("micro", "dataset"), subsets=("rule",), num_prompts=6, seed=int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
try:
    start(RunArgs(sys.argv[1], "micro", None, dataset))
    print("started")
except ReflectionFlowError as error:
    print(error.exit_code, error)
"""


def test_of_two_runs_on_one_new_folder_one_starts_and_the_other_changes_nothing(tmp_path):
    for attempt in range(3):
        path = tmp_path / f"run_{attempt}"
        drivers = [
            subprocess.Popen(
                [sys.executable, "-c", START, str(path), str(seed)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in (1, 2)
        ]
        for driver in drivers:
            assert driver.stdout.readline() == "ready\n"
        for driver in drivers:
            driver.stdin.write("go\n")
            driver.stdin.flush()
        said = [driver.communicate(timeout=120)[0] for driver in drivers]
        winners = [number for number, text in enumerate(said) if text.startswith("started")]
        assert len(winners) == 1, said
        assert said[1 - winners[0]].startswith("3 "), said
        info = json.loads((path / "run.json").read_text())
        assert info["seed"] == winners[0] + 1
        assert info["prompts_sha256"] == [hashlib.sha256((path / "prompts.parquet").read_bytes()).hexdigest()]
        assert sorted(os.listdir(path)) == ["prompts.parquet", "run.json"]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_driver_that_is_stopped_at_any_operation_loses_and_mixes_nothing(tmp_path, monkeypatch, how):
    """Some of what `tests.soak.pause_everything` does at every operation."""
    run(tmp_path / "whole", CONFIG)
    expected = contents(open_run(str(tmp_path / "whole"))[0].storage)
    endings = set()
    for at in sorted(random.Random(how).sample(range(120), 6)):
        uri = str(tmp_path / f"run_{at}")
        endings.add(play(Scenario("run", lambda uri: None, _run), uri, at, how))
        assert _in_child(lambda uri=uri: problems_of(uri, expected)) == []
    assert endings <= ({0, -signal.SIGKILL} if how == "killed" else {0, 3})
    assert len(endings) >= 1
