"""`ray start --head`, then `ray job submit`: the shard bytes of a local run, also when killed and submitted again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support import toy_runs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
FLAGS = ["--preset", "micro", "--num-prompts", "8", "--generate.candidates-per-prompt", "4", "--unit-size", "2"]
KEEP_ALL = ["--select.keep-bins", "easy", "medium", "hard"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=2)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head of our own, with its dashboard. Yields the address that jobs are submitted to."""
    dashboard = free_port()
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    environment |= {"RAY_raylet_start_wait_time_s": "150", "RAY_worker_niceness": "0"}  # beside other work, too
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus", "8", f"--port={free_port()}"]
    command += [f"--dashboard-port={dashboard}", "--include-dashboard=true", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("head") / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    # The dashboard answers before the node has joined, and even when it never does.
    deadline = time.time() + 180
    while "Ray runtime started" not in log.read_text() or not answers(address):
        assert time.time() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(1)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run_flags(path: Path) -> list[str]:
    return ["-m", "pipelines", "run", "--run", str(path), *FLAGS, *KEEP_ALL]


def submit(address: str, path: Path, job_id: str, *, wait: bool) -> subprocess.CompletedProcess:
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--submission-id", job_id]
    command += [] if wait else ["--no-wait"]
    return subprocess.run(
        [*command, "--", "python", *run_flags(path), "--runtime", "ray"],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("local") / "run"
    subprocess.run([sys.executable, *run_flags(path)], cwd=ROOT, check=True)
    return path


def test_a_submitted_job_gives_the_same_shard_bytes_as_a_local_run(head, local, tmp_path):
    done = submit(head, tmp_path / "run", "undisturbed", wait=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(local)


def test_a_job_killed_and_submitted_again_goes_on(head, local, tmp_path):
    path = tmp_path / "run"
    submit(head, path, "first", wait=False)
    deadline = time.time() + 240
    while len(toy_runs.blocks(path)) < 2:
        assert time.time() < deadline, "the job never committed a block"
        time.sleep(0.1)
    drivers = [p for p in psutil.process_iter(["cmdline"]) if str(path) in (p.info["cmdline"] or ())]
    assert drivers
    for driver in drivers:
        driver.kill()
        driver.wait()
    committed = toy_runs.stamps(path)
    again = submit(head, path, "second", wait=True)
    assert again.returncode == 0, again.stdout + again.stderr
    after = toy_runs.stamps(path)
    assert all(after[block] == stamp for block, stamp in committed.items())
    assert toy_runs.shards(path) == toy_runs.shards(local)


def test_ray_job_stop_lets_the_blocks_at_hand_be_finished(head, tmp_path):
    from ray.job_submission import JobSubmissionClient

    path, expected = tmp_path / "run", tmp_path / "expected"
    assert toy_runs.run(expected)
    jobs = JobSubmissionClient(head)
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": "240", "TOY_SLEEP_S": "2"}
    jobs.submit_job(
        entrypoint=f"python -m tests.soak.toy_on_ray {path} 0 18",
        submission_id="stopped",
        runtime_env={"working_dir": str(ROOT), "env_vars": environment},
    )
    deadline = time.time() + 240
    while not toy_runs.blocks(path):
        assert time.time() < deadline, "the job never committed a block"
        time.sleep(0.1)
    jobs.stop_job("stopped")
    while jobs.get_job_status("stopped") != "STOPPED":
        assert time.time() < deadline, jobs.get_job_logs("stopped")
        time.sleep(0.5)
    said = jobs.get_job_logs("stopped")
    assert "stopping after the block at hand" in said
    stopped = toy_runs.stamps(path)
    assert 0 < len(stopped) < len(toy_runs.blocks(expected))
    assert not (path / "lease.json").exists()  # it came to its end, and was not killed
    assert toy_runs.run(path)
    assert stopped.items() <= toy_runs.stamps(path).items()
    assert toy_runs.shards(path) == toy_runs.shards(expected)


def test_a_relative_run_folder_is_refused_in_a_job(head):
    done = submit(head, Path("runs/lost"), "relative", wait=True)
    assert done.returncode != 0
    assert "temporary folder" in done.stdout + done.stderr
