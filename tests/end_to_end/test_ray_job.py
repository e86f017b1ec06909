"""`ray start --head`, then `ray job submit`: the shard bytes of a local run, also when killed and submitted again."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support import toy_runs
from tests.support.processes import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
FLAGS = ["--preset", "micro", "--num-prompts", "8", "--generate.candidates-per-prompt", "4", "--unit-size", "2"]
KEEP_ALL = ["--select.keep-bins", "easy", "medium", "hard"]


def dashboard_of(log: Path) -> str | None:
    found = re.search(r"RAY_API_SERVER_ADDRESS='(http://[\d.]+:\d+)'", log.read_text())
    return None if found is None else found[1]


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=20)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head of our own, with its dashboard. Yields the address that jobs are submitted to."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus", "8", "--port=0", "--dashboard-port=0"]
    command += ["--include-dashboard=true", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("head") / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    # It says where the dashboard is once its node has joined.
    wait_until(lambda: process.poll() is not None or dashboard_of(log) is not None, 400)
    address = dashboard_of(log)
    assert address is not None, log.read_text()
    wait_until(lambda: answers(address), 400)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def run_flags(path: Path, program: tuple[str, ...] = ("pipelines",)) -> list[str]:
    return ["-m", *program, "run", "--run", str(path), *FLAGS, *KEEP_ALL]


def submit(
    address: str, path: Path, job_id: str, *, wait: bool, program: tuple[str, ...] = ("pipelines",)
) -> subprocess.CompletedProcess:
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--submission-id", job_id]
    command += [] if wait else ["--no-wait"]
    return subprocess.run(
        [*command, "--", "python", *run_flags(path, program), "--runtime", "ray"],
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
    submit(head, path, "first", wait=False, program=("tests.support.held_driver", "2"))
    wait_until(lambda: len(toy_runs.blocks(path)) >= 2, 400)
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

    path, expected, heard = tmp_path / "run", tmp_path / "expected", tmp_path / "heard"
    assert toy_runs.run(expected)
    jobs = JobSubmissionClient(head)
    # The third unit is at work until the driver has heard.
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": "400", "TOY_HANG": "p008", "TOY_HANG_UNTIL": str(heard)}
    jobs.submit_job(
        entrypoint=f"python -m tests.soak.toy_on_ray {path} 0 18",
        submission_id="stopped",
        runtime_env={"working_dir": str(ROOT), "env_vars": environment},
    )
    wait_until(lambda: toy_runs.blocks(path), 400)
    jobs.stop_job("stopped")
    wait_until(lambda: "stopping after the block at hand" in jobs.get_job_logs("stopped"), 200)
    heard.touch()
    wait_until(lambda: jobs.get_job_status("stopped") == "STOPPED", 400)
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
