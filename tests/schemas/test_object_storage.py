import json
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import lease
from pipelines.lease import Lease
from schemas.errors import InputError, LeaseHeldError, StorageError
from schemas.object_storage import ObjectStorage
from schemas.open_storage import open_storage
from schemas.storage import LocalStorage
from tests.support.lost_lease import LATE_CALLS, check_that_nothing_changes
from tests.support.processes import wait_until
from tests.support.s3_server import ENVIRONMENT, FlakyProxy, shared_server

ROOT = Path(__file__).parents[2]
BIG = 12_000_000


@pytest.fixture
def proxy(monkeypatch):
    """Every S3 request of the test goes through this."""
    flaky = FlakyProxy(shared_server().port)
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": flaky.url}.items():
        monkeypatch.setenv(name, value)
    yield flaky
    flaky.stop()


@pytest.fixture
def storage(proxy) -> ObjectStorage:
    """A folder of its own."""
    return ObjectStorage(f"s3://bucket/{uuid.uuid4().hex}")


def published(storage: ObjectStorage, path: str) -> int | None:
    """Bytes of an object as the server has it, None when it has none."""
    status, body = shared_server().request("GET", f"/{storage.uri.removeprefix('s3://')}/{path}")
    assert status in (200, 404), body
    return len(body) if status == 200 else None


def python(code: str, *arguments: object) -> subprocess.Popen:
    """A process of its own, so that it can be killed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# What a folder does


def test_what_is_committed_is_read_back_and_may_be_replaced(storage):
    storage.commit("a/b/c.bin", b"one")
    storage.commit("a/b/c.bin", b"two")
    assert (storage.read("a/b/c.bin"), storage.size("a/b/c.bin")) == (b"two", 3)
    assert storage.names("a") == ["b"]
    assert storage.names("a/b") == ["c.bin"]
    assert storage.names("nowhere") == []
    assert storage.size("a/b") is None
    assert storage.size("a/none") is None
    with pytest.raises(FileNotFoundError):
        storage.read("a/none")


def test_a_small_commit_is_one_request(storage, proxy):
    storage.commit("block.parquet", b"x" * 1000)
    assert [method for method, _, _ in proxy.seen] == ["PUT"]


def test_empty_and_compressed_looking_files_keep_their_bytes(storage):
    storage.commit("empty", b"")
    storage.commit("packed.gz", b"not gzip at all")
    assert storage.read("empty") == b""
    assert storage.size("empty") == 0
    assert storage.read("packed.gz") == b"not gzip at all"
    assert published(storage, "packed.gz") == 15


def test_a_listing_longer_than_one_page(storage, proxy):
    root = storage.uri.removeprefix("s3://bucket/")
    names = [f"{number:06d}.parquet" for number in range(2100)]
    shared_server().put_many([f"{root}/stages/000/{name}" for name in names])
    shared_server().put_many([f"{root}/stages/000/{name}" for name in (".DS_Store", "._000000.parquet", ".tmp-a-0")])
    assert storage.names("stages/000") == names
    assert storage.names("stages") == ["000"]
    assert len(proxy.seen) == 4  # three pages, and one


def test_delete_removes_a_file_or_a_folder_and_leaves_its_neighbours(storage):
    for path in ("stages/a/k/000/000000.parquet", "stages/a/k/000/000001.parquet", "stages/ab/k/000/000000.parquet"):
        storage.commit(path, b"x")
    storage.delete("stages/a/k/000/000001.parquet")
    assert storage.names("stages/a/k/000") == ["000000.parquet"]
    storage.delete("stages/a")
    storage.delete("stages/a")
    storage.delete("nowhere")
    assert storage.names("stages/a/k/000") == []
    assert storage.names("stages/ab/k/000") == ["000000.parquet"]


def test_a_copy_within_the_store_does_not_travel(storage, proxy, tmp_path):
    other = ObjectStorage(f"{storage.uri}-fork")
    storage.commit("a/block", b"x" * 1000)
    proxy.seen.clear()
    other.copy_from(storage, "a/block")
    assert [method for method, _, _ in proxy.seen] == ["PUT"]
    assert other.read("a/block") == b"x" * 1000
    local = LocalStorage(tmp_path)
    local.copy_from(storage, "a/block")
    storage.copy_from(local, "a/block")
    assert local.read("a/block") == b"x" * 1000
    with pytest.raises(FileNotFoundError):
        other.copy_from(storage, "a/none")


def test_workers_get_the_place_and_connect_themselves(storage):
    storage.commit("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"x"


def test_places_that_cannot_be_a_run_are_named():
    with pytest.raises(InputError, match="no storage"):
        open_storage("ftp://host/run")
    with pytest.raises(InputError, match="s3://bucket/run"):
        open_storage("hdfs://host/run")
    with pytest.raises(InputError, match="is no URI"):
        open_storage("s3://")


# Whole or not at all


def test_a_reader_in_another_process_sees_no_part(storage):
    reader = python(
        """
        import sys
        from schemas.object_storage import ObjectStorage
        storage, seen = ObjectStorage(sys.argv[1]), set()
        print("reading", flush=True)
        while int(sys.argv[2]) not in seen:
            seen.add(storage.size("shard"))
            try: seen.add(len(storage.read("shard")))
            except FileNotFoundError: pass
        print(sorted(size for size in seen if size is not None))
        """,
        storage.uri,
        BIG,
    )
    assert reader.stdout.readline() == "reading\n"
    storage.commit("shard", b"x" * BIG)
    output, errors = reader.communicate(timeout=240)
    assert (output, errors) == (f"[{BIG}]\n", "")


def test_a_writer_killed_in_the_middle_publishes_nothing(storage, proxy):
    proxy.rule = lambda method, path: "hang" if method == "PUT" else "pass"
    writer = python(
        """
        import sys
        from schemas.object_storage import ObjectStorage
        ObjectStorage(sys.argv[1]).commit("shard", b"x" * 50_000_000)
        """,
        storage.uri,
    )
    assert proxy.reached.wait(120)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    proxy.release.set()
    time.sleep(0.2)
    assert published(storage, "shard") is None
    proxy.rule = lambda method, path: "pass"
    storage.commit("shard", b"x" * BIG)
    assert published(storage, "shard") == BIG


def test_ctrl_c_at_any_instant_leaves_whole_objects_or_none(storage):
    writer = python(
        """
        import random, signal, sys
        from schemas.object_storage import ObjectStorage
        storage, rng, within_s, counts = ObjectStorage(sys.argv[1]), random.Random(0), 0.02, [0, 0]
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for number in range(150):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, within_s))
                    storage.commit(f"{number:03d}", b"x" * 1000)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                is_cut = False
            except KeyboardInterrupt:
                is_cut = True
            counts[is_cut] += 1
            within_s *= 1.1 if is_cut else 0.9  # about half of them, however fast the machine is
        print(*counts)
        """,
        storage.uri,
    )
    output, errors = writer.communicate(timeout=240)
    sizes = {storage.size(name) for name in storage.names("")}
    assert sizes == {1000}, errors
    assert min(map(int, output.split())) > 20


# What fails, and how long it takes


@pytest.mark.parametrize("size", [1000, BIG])
@pytest.mark.parametrize("how", ["500", "drop"])
def test_a_failed_put_is_an_error_and_publishes_nothing_later(storage, proxy, size, how):
    proxy.rule = lambda method, path: how if method == "PUT" else "pass"
    with pytest.raises(StorageError, match="can be resumed") as caught:
        storage.commit("shard", b"x" * size)
    assert storage.uri in str(caught.value)
    assert "\n" not in str(caught.value).partition("\n  ")[2]
    failed = [path for _, path, action in proxy.seen if action != "pass"]
    assert len(failed) == int(ENVIRONMENT["AWS_MAX_ATTEMPTS"])
    proxy.rule = lambda method, path: "pass"
    assert published(storage, "shard") is None
    storage.commit("shard", b"x" * size)
    assert published(storage, "shard") == size


def test_a_store_that_stumbles_is_tried_again(storage, proxy):
    bad = iter(["500"])
    proxy.rule = lambda method, path: next(bad, "pass")
    storage.commit("a", b"x" * 100_000)
    for how in ("drop", "500", "cut"):
        bad = iter([how])
        assert storage.read("a") == b"x" * 100_000
    bad = iter(["500"])
    assert storage.names("") == ["a"]


def test_everything_one_can_ask_reports_an_outage(storage, proxy):
    storage.commit("a/b", b"x")
    proxy.rule = lambda method, path: "500"
    calls = [
        lambda: storage.read("a/b"),
        lambda: storage.size("a/b"),
        lambda: storage.names("a"),
        lambda: storage.delete("a"),
        storage.lease,
        lambda: storage.swap_lease(None, b"x"),
        lambda: storage.copy_from(ObjectStorage(f"{storage.uri}-other"), "a/b"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="can be resumed"):
            call()


def test_an_answer_cut_short_is_no_file(storage, proxy):
    storage.commit("a", b"x" * 100_000)
    proxy.rule = lambda method, path: "cut" if method == "GET" else "pass"
    with pytest.raises(StorageError):
        storage.read("a")


def test_a_bucket_that_does_not_exist_is_named(proxy):
    storage = ObjectStorage("s3://elsewhere/run")
    assert storage.names("") == []
    with pytest.raises(StorageError, match="no such bucket"):
        storage.commit("a", b"x")
    for call in (lambda: storage.read("a"), lambda: storage.swap_lease(None, b"x"), storage.fenced("t").lease):
        with pytest.raises(StorageError, match="no such bucket"):
            call()


def test_refused_credentials_say_what_to_set(storage, proxy):
    proxy.rule = lambda method, path: "403"
    for call in (lambda: storage.read("a"), lambda: storage.names(""), lambda: storage.commit("a", b"x")):
        with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
            call()
    assert len(proxy.seen) == 3  # asking again does not help


def test_a_silent_store_is_given_up(storage, proxy, monkeypatch):
    monkeypatch.setattr("schemas.object_storage.SILENCE_TIMEOUT_S", 1.0)
    proxy.rule = lambda method, path: "hang"
    impatient = ObjectStorage(storage.uri)
    with pytest.raises(StorageError, match="can be resumed"):
        impatient.size("a")
    wait_until(lambda: len(proxy.seen) >= int(ENVIRONMENT["AWS_MAX_ATTEMPTS"]))  # its threads may be late
    assert len(proxy.seen) == int(ENVIRONMENT["AWS_MAX_ATTEMPTS"])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["silent", "silent to an upload", "refused", "500"])
def test_a_dead_store_is_given_up_within_a_minute(storage, proxy, monkeypatch, how):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    patient = ObjectStorage(storage.uri)
    if how == "refused":
        proxy.stop()
    upload = how.endswith("upload")
    proxy.rule = lambda method, path: "500" if how == "500" else "hang"
    calls = [lambda: patient.commit("a", b"x" * (BIG if upload else 1)), lambda: patient.read("a")]
    for call in calls[: 1 if upload else 2]:
        started = time.monotonic()
        with pytest.raises(StorageError):
            call()
        assert time.monotonic() - started < 60


# One driver at a time


def test_of_many_that_take_the_lease_at_once_exactly_one_does(storage):
    version = None
    for number in range(3):
        start = threading.Barrier(4)

        def take(who: int, start=start, version=version, number=number):
            mine = ObjectStorage(storage.uri)
            start.wait()
            return mine.swap_lease(version, f"{number}-{who}".encode())

        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(take, range(4)))
        (winner,) = [who for who, new in enumerate(made) if new is not None]
        version, record = storage.lease()
        assert record == f"{number}-{winner}".encode()
        assert version == made[winner]
    assert storage.names("") == []


def write_lease(storage: ObjectStorage, **changed) -> None:
    holder = json.loads(Lease(storage)._record()) | changed
    assert storage.swap_lease(storage.lease()[0], json.dumps(holder).encode()) is not None


def test_a_second_driver_is_refused_and_a_finished_one_leaves_room(storage):
    with Lease(storage), pytest.raises(LeaseHeldError, match="another driver works here"), Lease(storage):
        pass
    with Lease(storage) as again:
        assert json.loads(storage.lease()[1])["token"] == again.token


@pytest.mark.parametrize("clock_ahead_s", [-1e6, 70.0, 1e6])
def test_a_clock_that_goes_wrong_steals_no_living_lease(storage, monkeypatch, clock_ahead_s):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lease, "STALE_AFTER_S", 3.0)
    with Lease(storage):
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + clock_ahead_s)
        monkeypatch.setattr(lease, "_machine", lambda: "another machine")
        with pytest.raises(LeaseHeldError, match="was heard"), Lease(ObjectStorage(storage.uri)):
            pass


def test_the_lease_of_a_driver_that_is_gone_is_taken_over(storage, monkeypatch):
    write_lease(storage, pid=2**22 + 1)
    with Lease(storage):
        pass
    write_lease(storage, machine="elsewhere")
    monkeypatch.setattr(lease, "STALE_AFTER_S", 0.3)
    with Lease(storage) as taken:
        assert json.loads(storage.lease()[1])["token"] == taken.token


@pytest.mark.parametrize("what", LATE_CALLS)
def test_who_lost_the_lease_changes_nothing_any_more(storage, what):
    check_that_nothing_changes(storage, ObjectStorage(f"{storage.uri}-other"), what)


@pytest.mark.parametrize("there_before", [False, True])
@pytest.mark.parametrize("second_writes", ["replaces", "creates"])
def test_a_put_that_slept_between_its_look_at_the_lease_and_itself_is_refused_by_the_store(
    storage, proxy, there_before, second_writes
):
    """The first driver's last request is held back until the second has written: the store sees that it is late."""
    with Lease(storage) as first:
        if there_before:
            first.storage.commit("shard", b"before")
        puts = []

        def hold_back_the_last(method: str, path: str) -> str:
            if method == "PUT" and path.endswith("/shard"):
                puts.append(path)
                return "late" if len(puts) == (2 if there_before else 1) else "pass"
            return "pass"

        proxy.rule = hold_back_the_last
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(first.storage.commit, "shard", b"old view")
            assert proxy.reached.wait(60)
            proxy.rule = lambda method, path: "pass"
            with Lease(storage, take_over=True) as second:
                if second_writes == "creates":
                    second.storage.delete("shard")
                second.storage.commit("shard", b"second")
                proxy.release.set()
                with pytest.raises(LeaseHeldError):
                    late.result(60)
    assert storage.read("shard") == b"second"


def test_a_fenced_put_whose_answer_is_lost_is_no_quarrel_with_oneself(storage, proxy):
    with Lease(storage) as held:
        for content in (b"one", b"two"):
            lost = iter(["forward and drop"])
            proxy.rule = lambda method, path, lost=lost: (
                next(lost, "pass") if method == "PUT" and path.endswith("/a") else "pass"
            )
            held.storage.commit("a", content)
            assert storage.read("a") == content
