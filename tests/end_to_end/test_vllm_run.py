"""A run whose VLM Ray Serve serves, by vLLM, and which is killed on the way: it comes back, and nothing is asked
twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from microworld.weights_folder import MICRO_WEIGHTS
from tests.support.processes import lines_above, processes_with, wait_until
from tests.support.vllm_of_micro import vllm_processes

ROOT = Path(__file__).parents[2]
FLAGS = [
    *("--subsets", "length", "editing", "--annotate", "--num-prompts", "8", "--unit-size", "2"),
    *("--generate.candidates-per-prompt", "4", "--pair.min-margin", "0", "--reflect.keep-given", "none"),
    *("--vlm.kind", "vllm", "--filter.min-margin", "-1000"),
]


def pipelines(*arguments, timeout=1500):
    command = [sys.executable, "-m", "pipelines", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def kill_servers(run, kills, stop):
    """Kill a replica as soon as it has answered something; then, when the next one has, its engine alone."""
    seen, victims = 0, ["VlmServer:micro--vlm", "EngineCore"]
    while victims and not stop.wait(0.2):
        answers = len(list((run / "journal").rglob("*.json")))
        servers = {pid for pid in processes_with(victims[0]) if any("raylet" in line for line in lines_above(pid))}
        if servers and answers > seen:
            os.kill(min(servers), signal.SIGKILL)
            kills.append(victims.pop(0))
            seen = answers + 1
            time.sleep(2)


@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_vllm_serves_a_run_under_ray_and_comes_back_when_it_is_killed(tmp_path):
    pytest.importorskip("vllm")
    if not (MICRO_WEIGHTS / "vlm" / "model.safetensors").exists():
        pytest.skip("the micro VLM is not here")
    run, kills, stop = tmp_path / "run", [], threading.Event()
    killer = threading.Thread(target=kill_servers, args=(run, kills, stop))
    killer.start()
    try:
        pipelines("run", "--run", str(run), *FLAGS, "--runtime", "ray")
    finally:
        stop.set()
        killer.join()
    assert len(kills) == 2
    found = json.loads(pipelines("verify", "--run", str(run), "--deep", "--json").stdout)
    assert found["problems"] == []
    assert found["prompts"]["pending"] == found["prompts"]["quarantined"] == 0
    journal = {path: path.stat().st_mtime_ns for path in (run / "journal").rglob("*.json")}
    assert journal
    # What was paid for is not asked again, by whoever.
    for block in (run / "stages" / "write_reflections").rglob("*.parquet"):
        block.unlink()
    # All answers are there: the resume starts no vLLM of this machine's.
    resumed = pipelines("resume", "--run", str(run), "--schedule", "staged")
    assert "starting vLLM" not in resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in (run / "journal").rglob("*.json")} == journal
    wait_until(lambda: not vllm_processes("raylet"))
