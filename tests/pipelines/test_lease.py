import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import lease
from pipelines.lease import Lease
from schemas.errors import LeaseHeldError
from schemas.storage import FREE, LocalStorage
from tests.support.lost_lease import LATE_CALLS, check_that_nothing_changes

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
    """A record as a driver of this very process would leave it, but for what is `changed`."""
    storage = LocalStorage(folder)
    version, _ = storage.lease()
    holder = json.loads(Lease(storage)._record()) | changed
    assert storage.swap_lease(version, json.dumps(holder).encode()) is not None


def record(folder: Path) -> dict:
    return json.loads(LocalStorage(folder).lease()[1])


@pytest.fixture
def impatient(monkeypatch):
    """Holders elsewhere are watched for a fifth of a second."""
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.2)


def test_a_lease_is_given_back(tmp_path):
    for _ in range(3):
        with Lease(LocalStorage(tmp_path)) as held:
            assert record(tmp_path)["token"] == held.token
            held.storage.commit("a", b"1")
        assert os.listdir(tmp_path) == ["a"]


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


def test_a_stopped_driver_is_said_to_be_stopped(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    os.kill(first.pid, signal.SIGSTOP)
    while lease._process_state(first.pid, lease._process_started(first.pid)) != "T":
        time.sleep(0.01)
    with pytest.raises(LeaseHeldError, match=f"kill -CONT {first.pid}"), Lease(LocalStorage(tmp_path)):
        pass


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.wait()
    with Lease(LocalStorage(tmp_path)):
        assert record(tmp_path)["pid"] == os.getpid()


def test_take_over_wins_against_a_living_driver_which_then_does_not_remove_the_lease(tmp_path, start):
    first = start()
    assert first.stdout.readline() == "held\n"
    with Lease(LocalStorage(tmp_path), take_over=True):
        first.stdin.write("end\n")
        first.wait(timeout=60)
        assert record(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("what", LATE_CALLS)
def test_who_lost_the_lease_changes_nothing_any_more(tmp_path, what):
    check_that_nothing_changes(LocalStorage(tmp_path / "run"), LocalStorage(tmp_path / "source"), what)


def test_a_workers_copy_of_the_storage_is_fenced_too(tmp_path):
    storage = LocalStorage(tmp_path)
    with Lease(storage) as first:
        worker = pickle.loads(pickle.dumps(first.storage))
        worker.commit("a", b"1")
        with Lease(storage, take_over=True), pytest.raises(LeaseHeldError):
            worker.commit("a", b"2")


def test_a_process_id_that_was_given_to_another_process_does_not_hold_the_lease(tmp_path):
    write_lease(tmp_path, process_started="1")
    with Lease(LocalStorage(tmp_path)):
        pass


def test_the_same_process_number_in_another_container_says_nothing(tmp_path, impatient, caplog):
    write_lease(tmp_path, machine="this host/this boot/another container", pid=2**22 + 1)
    with Lease(LocalStorage(tmp_path)):
        pass
    assert "watching for a sign of life" in caplog.text


@pytest.mark.parametrize("clock_ahead_s", [-1e6, 0.0, 1e6])
def test_another_machine_holds_the_lease_as_long_as_it_is_heard_whatever_its_clock_says(
    tmp_path, monkeypatch, impatient, clock_ahead_s
):
    write_lease(tmp_path, host="elsewhere", machine="elsewhere", pid=1, heartbeat_at=time.time() + clock_ahead_s)
    monkeypatch.setattr(lease, "STALE_AFTER_S", 20.0)
    watched = threading.Event()

    def beat():
        while not watched.wait(0.1):
            write_lease(tmp_path, host="elsewhere", machine="elsewhere", pid=1)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), Lease(LocalStorage(tmp_path)):
            pass
    finally:
        watched.set()
        beating.join()
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.2)
    with Lease(LocalStorage(tmp_path)):
        assert record(tmp_path)["pid"] == os.getpid()


def test_a_driver_elsewhere_that_ends_while_it_is_watched_leaves_room(tmp_path, monkeypatch):
    write_lease(tmp_path, machine="elsewhere")
    monkeypatch.setattr(lease, "STALE_AFTER_S", 20.0)
    storage = LocalStorage(tmp_path)
    threading.Timer(0.2, lambda: storage.swap_lease(storage.lease()[0], FREE)).start()
    with Lease(LocalStorage(tmp_path)):
        pass


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"{}", b'{"token": 1}', b"\xff", b'{"pid": "x", "machine": 3}'])
def test_a_lease_that_does_not_read_is_watched_and_taken_over(tmp_path, impatient, broken):
    assert LocalStorage(tmp_path).swap_lease(None, broken)
    with Lease(LocalStorage(tmp_path)):
        pass


def test_a_holder_notices_that_its_lease_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with Lease(LocalStorage(tmp_path)) as first:
        assert not first.lost.wait(0.3)
        first.check()
        with Lease(LocalStorage(tmp_path), take_over=True):
            assert first.lost.wait(60)
            with pytest.raises(LeaseHeldError):
                first.check()


def test_heartbeats_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.05)
    with Lease(LocalStorage(tmp_path)):
        first = record(tmp_path)["heartbeat_at"]
        until = time.monotonic() + 60
        while record(tmp_path)["heartbeat_at"] <= first:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_of_eight_drivers_at_a_dead_drivers_folder_one_takes_over(tmp_path, start):
    write_lease(tmp_path, process_started="1")
    drivers = [start(go=False) for _ in range(8)]
    for driver in drivers:
        driver.stdin.write("go\n")
    answers = [driver.stdout.readline() for driver in drivers]
    assert sorted(answers) == ["held\n"] + ["refused 3\n"] * 7
    assert len(os.listdir(tmp_path / ".lease")) == 2  # one record, one desk


def test_foreign_files_in_the_leases_folder_harm_nothing(tmp_path, start):
    with Lease(LocalStorage(tmp_path)):
        pass
    (tmp_path / ".lease").mkdir()
    for name in (".DS_Store", "._000002.json", "000001 (conflicted copy).json", "notes.txt", "x.json"):
        (tmp_path / ".lease" / name).write_text("?")
    with Lease(LocalStorage(tmp_path)) as held:
        assert record(tmp_path)["token"] == held.token
