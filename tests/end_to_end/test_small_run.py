"""A real run of the micro models: eight prompts, four candidates each, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def pipelines(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "pipelines", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


SMALL = ["--num-prompts", "8", "--unit-size", "4", "--generate.candidates-per-prompt", "4"]
KEEP_ALL = ["--select.keep-bins", "easy", "medium", "hard"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "run"
    pipelines("run", "--run", str(path), *SMALL, *KEEP_ALL)
    return path


def test_a_run_of_the_shipped_models_adds_up(small_run):
    found = json.loads(pipelines("verify", "--run", str(small_run), "--deep", "--json"))
    assert found["problems"] == []
    assert sum(found["prompts"].values()) == 8
    assert found["prompts"]["pending"] == found["prompts"]["quarantined"] == 0
    assert sum(found["candidates"].values()) == 32
    assert (small_run / "report" / "index.html").stat().st_size > 1000


def test_its_shards_are_read_by_plain_webdataset(small_run):
    import webdataset

    index = json.loads((small_run / "shards" / "index.json").read_text())
    urls = [str(small_run / "shards" / shard["name"]) for shard in index["shards"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")) if urls else []
    assert len(samples) == index["num_samples"]
    for sample in samples:
        assert sample["good_image.jpg"].shape == sample["bad_image.jpg"].shape == (32, 32, 3)
        assert sample["reflection.txt"]
        assert sample["prompt.txt"]
        assert sample["subset.txt"] == "rule"


def test_going_on_with_a_finished_run_changes_nothing(small_run):
    before = {path: path.stat().st_mtime_ns for path in small_run.glob("stages/*/*/*/*.parquet")}
    assert len(before) == 6
    shards = {path.name: path.read_bytes() for path in (small_run / "shards").iterdir()}
    pipelines("run", "--run", str(small_run), *SMALL, *KEEP_ALL)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name: path.read_bytes() for path in (small_run / "shards").iterdir()} == shards


def test_another_configuration_of_the_same_folder_is_refused_with_the_fields_that_differ(small_run):
    command = [sys.executable, "-m", "pipelines", "run", "--run", str(small_run), *SMALL, *KEEP_ALL, "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert "seed: 0 -> 5" in done.stderr
    assert "--fork" in done.stderr


def test_a_floor_for_quality_rejects_what_is_below_it_and_adds_up(tmp_path):
    run = str(tmp_path / "run")
    floor = ["--quality.min", "16", "--quality.reward", "pick", "--subsets", "rule", "general"]
    pipelines("run", "--run", run, *SMALL, *KEEP_ALL, *floor)
    found = json.loads(pipelines("verify", "--run", run, "--deep", "--json"))
    assert found["problems"] == []
    assert found["prompts"]["pending"] == found["prompts"]["quarantined"] == 0
    assert sum(found["prompts"].values()) == 16
    status = pipelines("status", "--run", run)
    assert "low_quality" in status
    assert "low_quality" in (tmp_path / "run" / "report" / "index.html").read_text()
