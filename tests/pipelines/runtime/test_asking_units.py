"""Stages that only wait for answers have several units under way at once: same bytes, and no more bytes of images in
memory than is said."""

import threading
import time

import pytest

from pipelines.runtime import unit_worker
from pipelines.runtime.byte_gate import ByteGate
from schemas.errors import InputError, OutageError
from tests.support import toy_runs
from tests.support.processes import wait_until
from tests.support.toy_job import CheckColors


class AtOnce:
    """How many calls are under way, and were at most. wanted: calls wait until there are so many."""

    def __init__(self):
        self.now, self.most, self.wanted, self.lock = 0, 0, 0, threading.Lock()
        self.are_there = threading.Event()

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.most == self.wanted:
                self.are_there.set()
        self.are_there.wait(60 if self.wanted else 0.2)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


@pytest.fixture
def checks(monkeypatch):
    """The toy's colour check, as if it asked a server that takes its time."""
    at_once, check = AtOnce(), CheckColors.__call__

    def ask(self, rows):
        with at_once:
            return check(self, rows)

    monkeypatch.setattr(CheckColors, "is_client", classmethod(lambda cls, config: True))
    monkeypatch.setattr(CheckColors, "__call__", ask)
    return at_once


@pytest.mark.parametrize("units", [1, 4])
def test_units_in_threads_give_the_same_shards(checks, undisturbed, tmp_path, units):
    checks.wanted = units
    assert toy_runs.run(tmp_path / "run", schedule="staged", asking_units=units)
    assert checks.most == units
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(undisturbed)


def test_stages_that_compute_take_one_unit_at_a_time(checks, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(CheckColors, "is_client", classmethod(lambda cls, config: False))
    assert toy_runs.run(tmp_path / "run", schedule="staged", asking_units=4)
    assert checks.most == 1


def test_a_unit_waits_until_the_images_of_others_are_let_go_of(checks, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(unit_worker, "IMAGE_BYTES_AT_ONCE", 1)
    assert toy_runs.run(tmp_path / "run", schedule="staged", asking_units=4)
    assert checks.most == 1
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(undisturbed)


def test_what_others_had_done_stays_when_a_unit_stops_the_run(checks, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAIL_CHECK", "p008,p009,p010,p011")  # a whole unit, which is an outage
    with pytest.raises(OutageError):
        toy_runs.run(tmp_path / "run", schedule="staged", asking_units=2)
    assert toy_runs.blocks(tmp_path / "run", "check_colors")
    monkeypatch.delenv("TOY_FAIL_CHECK")
    assert toy_runs.run(tmp_path / "run", schedule="staged", asking_units=2)
    assert toy_runs.shards(tmp_path / "run") == toy_runs.shards(undisturbed)


def test_no_units_at_once_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        toy_runs.run(tmp_path / "run", asking_units=0)


def test_the_gate_lets_in_what_fits_and_what_is_too_large_alone():
    gate, inside = ByteGate(10), []
    let_out = {name: threading.Event() for name in "abc"}

    def go(name, size):
        with gate.entered(size):
            inside.append(name)
            let_out[name].wait(60)
        inside.remove(name)

    threads = {}
    for name, size in (("a", 6), ("b", 4), ("c", 20)):
        threads[name] = threading.Thread(target=go, args=(name, size))
        threads[name].start()
        wait_until(lambda name=name: name in inside or name == "c")
    time.sleep(0.1)
    assert inside == ["a", "b"]
    let_out["a"].set()
    threads["a"].join()
    time.sleep(0.1)
    assert inside == ["b"]
    let_out["b"].set()
    threads["b"].join()
    wait_until(lambda: inside == ["c"])
    let_out["c"].set()
    threads["c"].join()
    assert gate.inside == 0
