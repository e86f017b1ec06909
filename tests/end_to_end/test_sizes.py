"""Runs and searches whose images are of several sizes: every prompt keeps its own through all stages."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands.main import main
from commands.runs import open_run
from pipelines.evaluation import read_rows
from pipelines.search_job import SearchJobConfig
from schemas.images import decode_image
from schemas.shards import decode_shard
from tests.support.processes import wait_until

SIZES = ("32x32", "40x24", "24x40")
RUN = (
    *("run", "--subsets", "rule", "general", "--num-prompts", "4", "--unit-size", "2", "--quiet"),
    *("--generate.candidates-per-prompt", "4", "--generate.generator.sizes", *SIZES),
)
SEARCH = (
    *("search", "--num-prompts", "4", "--unit-size", "4", "--search.width", "2", "--search.depth", "2", "--quiet"),
    *("--tools.generator.sizes", *SIZES),
)
HELD = """
import sys
from commands.main import main
from tests.support.held_processes import hold_commits
hold_commits(2, "stages/generate_candidates/")
sys.exit(main(sys.argv[1:]))
"""


def shards(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "shards").glob("*.tar"))}


@pytest.mark.slow
def test_a_run_of_three_sizes_that_is_killed_and_resumed_packs_the_same_shards(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*RUN, "--run", str(whole)]) == 0
    assert main(["verify", "--run", str(whole)]) == 0
    driver = subprocess.Popen([sys.executable, "-c", HELD, *RUN, "--run", str(killed)], stdout=subprocess.DEVNULL)
    drawn = killed / "stages" / "generate_candidates"
    wait_until(lambda: driver.poll() is not None or list(drawn.glob("*/*/*.parquet")))
    assert driver.poll() is None
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not shards(killed)
    assert main([*RUN, "--run", str(killed)]) == 0
    assert shards(killed) == shards(whole)
    sizes = set()
    for name, data in shards(whole).items():
        for sample in decode_shard(data, name):
            good, bad = decode_image(sample.good_image), decode_image(sample.bad_image)
            assert good.shape == bad.shape
            assert sample.meta["good"]["size_px"] == sample.meta["bad"]["size_px"] == [good.shape[1], good.shape[0]]
            sizes.add(f"{good.shape[1]}x{good.shape[0]}")
    assert len(sizes) > 1
    assert sizes <= set(SIZES)
    page = (whole / "report" / "index.html").read_text()
    assert '"width_px":40' in page.replace(" ", "")


@pytest.mark.slow
def test_a_search_corrects_images_at_their_own_size_and_its_page_keeps_their_aspect(tmp_path):
    run = tmp_path / "run"
    assert main([*SEARCH, "--run", str(run)]) == 0
    folder, config = open_run(str(run))
    assert isinstance(config, SearchJobConfig)
    rows = [row for row in read_rows(folder, config) if row]
    sizes = [{f"{c.width_px}x{c.height_px}" for c in row.candidates} for row in rows]
    assert all(len(of_prompt) == 1 for of_prompt in sizes)
    assert len(set.union(*sizes)) > 1
    corrected = [c for row in rows for c in row.candidates if c.search and c.search.parent is not None]
    assert {f"{c.width_px}x{c.height_px}" for c in corrected} - {"32x32"}
    assert "height: auto" in (run / "evaluation" / "index.html").read_text()
