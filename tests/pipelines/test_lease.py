import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import lease
from pipelines.lease import Lease
from schemas.errors import LeaseHeldError
from schemas.storage import LocalStorage

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pipelines.lease import Lease
from schemas.errors import LeaseHeldError
from schemas.storage import LocalStorage
sys.stdin.readline()
try:
    with Lease(LocalStorage(sys.argv[1]), take_over="--take-over" in sys.argv):
        print("held", flush=True)
        sys.stdin.readline()
except LeaseHeldError as error:
    print("refused", error.exit_code, flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts processes that take the lease at `go` and hold it until they are told to end."""
    started = []

    def start_one(*arguments: str, go: bool = True) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        started.append(process)
        if go:
            process.stdin.write("go\n")
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def write_lease(folder: Path, **changed) -> None:
    record = {
        "token": "0" * 16,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": lease._process_started(os.getpid()),
        "heartbeat_at": time.time(),
    }
    LocalStorage(folder).commit("lease.json", json.dumps(record | changed).encode())


def test_a_lease_is_given_back(tmp_path):
    for _ in range(2):
        with Lease(LocalStorage(tmp_path)):
            assert os.listdir(tmp_path) == ["lease.json"]
        assert os.listdir(tmp_path) == []


def test_a_lease_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Lease(LocalStorage(tmp_path)):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_a_second_driver_is_refused_and_told_how_to_take_over(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    with pytest.raises(LeaseHeldError) as refused, Lease(LocalStorage(tmp_path)):
        pass
    assert refused.value.exit_code == 3
    message = str(refused.value)
    assert f"process {first.pid} on {socket.gethostname()}" in message
    assert "--take-over" in message
    assert start().stdout.readline() == "refused 3\n"
    first.stdin.write("end\n")
    first.wait(timeout=60)
    with Lease(LocalStorage(tmp_path)):
        pass


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.wait()
    with Lease(LocalStorage(tmp_path)):
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()


def test_take_over_wins_against_a_living_driver_which_then_does_not_remove_the_lease(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    with Lease(LocalStorage(tmp_path), take_over=True):
        first.stdin.write("end\n")
        first.wait(timeout=60)
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()


def test_a_process_id_that_was_given_to_another_process_does_not_hold_the_lease(tmp_path):
    write_lease(tmp_path, process_started="1")
    with Lease(LocalStorage(tmp_path)):
        pass


def test_another_host_holds_the_lease_as_long_as_it_is_heard(tmp_path):
    write_lease(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), Lease(LocalStorage(tmp_path)):
        pass
    write_lease(tmp_path, host="elsewhere", pid=1, heartbeat_at=time.time() - lease.STALE_AFTER_S - 1)
    with Lease(LocalStorage(tmp_path)):
        pass


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"token": 1}'])
def test_a_lease_that_does_not_read_is_taken_over(tmp_path, broken):
    (tmp_path / "lease.json").write_bytes(broken)
    with Lease(LocalStorage(tmp_path)):
        pass


def test_a_holder_notices_that_its_lease_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with Lease(LocalStorage(tmp_path)) as first:
        assert not first.lost.wait(0.3)
        with Lease(LocalStorage(tmp_path), take_over=True):
            assert first.lost.wait(60)


def test_heartbeats_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with Lease(LocalStorage(tmp_path)):
        first = json.loads((tmp_path / "lease.json").read_text())["heartbeat_at"]
        until = time.monotonic() + 60
        while json.loads((tmp_path / "lease.json").read_text())["heartbeat_at"] <= first:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_of_eight_drivers_at_a_dead_drivers_folder_one_takes_over(tmp_path, start):
    write_lease(tmp_path, process_started="1")
    drivers = [start(go=False) for _ in range(8)]
    for driver in drivers:
        driver.stdin.write("go\n")
    answers = [driver.stdout.readline() for driver in drivers]
    assert sorted(answers) == ["held\n"] + ["refused 3\n"] * 7
    assert os.listdir(tmp_path) == ["lease.json"]


def test_a_driver_killed_while_it_took_over_does_not_keep_others_out(tmp_path):
    write_lease(tmp_path, token="a" * 16, process_started="1")
    (tmp_path / "lease.json").rename(tmp_path / "kept")
    write_lease(tmp_path, token="b" * 16, process_started="2")
    (tmp_path / "lease.json").rename(tmp_path / f"lease-{'a' * 16}.claim")
    (tmp_path / "kept").rename(tmp_path / "lease.json")
    with Lease(LocalStorage(tmp_path)):
        assert os.listdir(tmp_path) == ["lease.json"]
