import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from schemas.errors import InputError, StorageError
from schemas.open_storage import open_storage
from schemas.storage import LocalStorage


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A process of its own in the repository root, so that it can be killed."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_what_is_committed_is_read_back_and_may_be_replaced(tmp_path):
    storage = LocalStorage(tmp_path / "run")
    storage.commit("a/b/c.bin", b"one")
    storage.commit("a/b/c.bin", b"two")
    assert storage.read("a/b/c.bin") == b"two"
    assert storage.size("a/b/c.bin") == 3
    assert storage.names("a/b") == ["c.bin"]
    assert os.listdir(tmp_path / "run" / "a" / "b") == ["c.bin"]


def test_nothing_is_made_by_opening_and_looking(tmp_path):
    storage = LocalStorage(tmp_path / "run")
    assert storage.size("run.json") is None
    assert storage.names("stages") == []
    assert storage.sweep() == 0
    storage.delete("nothing")
    with pytest.raises(FileNotFoundError, match="prompts"):
        storage.read("prompts.parquet")
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_looked_for_counts_as_missing(tmp_path):
    (tmp_path / "stages").write_text("")
    storage = LocalStorage(tmp_path)
    assert storage.names("stages") == []
    assert storage.size("stages/x") is None
    with pytest.raises(FileNotFoundError):
        storage.read("stages/x")


def test_create_gives_a_name_to_the_first_alone(tmp_path):
    storage = LocalStorage(tmp_path)
    assert storage.create("lease", b"one")
    assert not storage.create("lease", b"two")
    assert storage.read("lease") == b"one"
    assert os.listdir(tmp_path) == ["lease"]


def test_create_among_eight_processes_has_one_winner(tmp_path):
    code = """
        import sys, time
        from schemas.storage import LocalStorage
        storage = LocalStorage(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        print(*(storage.create(f"lease-{i}", sys.argv[2].encode()) for i in range(20)))
    """
    workers = [python(code, tmp_path, number, stdin=subprocess.PIPE) for number in range(8)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    won = [worker.communicate(timeout=60)[0].split() for worker in workers]
    for i in range(20):
        winners = [number for number in range(8) if won[number][i] == "True"]
        assert len(winners) == 1
        assert (tmp_path / f"lease-{i}").read_text() == str(winners[0])


def test_a_killed_writer_never_leaves_a_partial_file_under_the_final_name(tmp_path):
    size = 2_000_000
    code = """
        import sys
        from schemas.storage import LocalStorage
        storage = LocalStorage(sys.argv[1])
        for number in range(10**6):
            storage.commit("block", bytes([number % 251]) * int(sys.argv[2]))
            print(number, flush=True)
    """
    for attempt in range(4):
        worker = python(code, tmp_path, size)
        worker.stdout.readline()
        time.sleep(0.011 * attempt)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        data = (tmp_path / "block").read_bytes()
        assert len(data) == size
        assert len(set(data)) == 1
    partial = list(tmp_path.glob(".tmp-*"))
    storage = LocalStorage(tmp_path)
    assert storage.names("") == ["block"]
    assert storage.sweep() == len(partial)
    assert os.listdir(tmp_path) == ["block"]


def test_sweep_removes_unfinished_files_everywhere_and_nothing_else(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.commit("stages/a/block", b"1")
    (tmp_path / "stages/a/.tmp-block-1234").write_bytes(b"half")
    (tmp_path / ".tmp-run.json-1234").write_bytes(b"")
    assert storage.names("stages/a") == ["block"]
    assert storage.sweep() == 2
    assert storage.sweep() == 0
    assert storage.read("stages/a/block") == b"1"


def test_a_folder_that_was_deleted_can_be_written_again(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.commit("stages/a/key/block", b"1")
    storage.delete("stages/a")
    assert storage.names("stages") == []
    storage.commit("stages/a/key/block", b"2")
    assert storage.read("stages/a/key/block") == b"2"


def test_a_copy_is_a_hard_link_and_survives_changes_of_its_source(tmp_path):
    source, target = LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b")
    source.commit("x/block", b"1")
    target.copy_from(source, "x/block")
    target.copy_from(source, "x/block")
    assert (tmp_path / "a/x/block").samefile(tmp_path / "b/x/block")
    source.commit("x/block", b"2")
    assert target.read("x/block") == b"1"


def test_a_full_disk_is_a_storage_error_that_says_so_and_leaves_nothing_behind(small_disk):
    storage = LocalStorage(small_disk / "run")
    storage.commit("small", b"1")
    for write in (storage.commit, storage.create):
        with pytest.raises(StorageError, match="free some space, then `resume`"):
            write("big", bytes(10_000_000))
    assert os.listdir(small_disk / "run") == ["small"]
    assert storage.read("small") == b"1"


def test_a_read_only_disk_is_a_storage_error_that_says_so(small_disk):
    storage = LocalStorage(small_disk)
    storage.commit("stages/block", b"1")
    other = LocalStorage(small_disk.parent)
    other.commit("elsewhere", b"1")
    (small_disk / ".tmp-half").write_bytes(b"")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    attempts = {
        "commit": lambda: storage.commit("stages/block", b"2"),
        "commit in a new folder": lambda: storage.commit("new/block", b"2"),
        "create": lambda: storage.create("lease", b"2"),
        "delete": lambda: storage.delete("stages"),
        "sweep": storage.sweep,
        "copy": lambda: storage.copy_from(other, "elsewhere"),
    }
    for attempt in attempts.values():
        with pytest.raises(StorageError, match="the file system is read-only"):
            attempt()
    assert storage.read("stages/block") == b"1"


def test_a_file_size_limit_is_a_storage_error_and_leaves_the_old_file(tmp_path):
    code = """
        import os, resource, signal, sys
        from schemas.errors import StorageError
        from schemas.storage import LocalStorage
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        storage = LocalStorage(sys.argv[1])
        storage.commit("block", b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for write in (storage.commit, storage.create):
            try:
                write("block", bytes(100_000))
            except StorageError as error:
                print(error)
        print(os.listdir(sys.argv[1]), storage.read("block"))
    """
    output, errors = python(code, tmp_path).communicate(timeout=60)
    assert errors == ""
    assert output.count("File too large; the folder can be resumed") == 2
    assert "['block'] b'old'" in output


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_is_named_by_path_or_uri_and_other_schemes_are_a_usage_error(tmp_path):
    open_storage(f"file://{tmp_path}").commit("a.json", json.dumps(1).encode())
    assert open_storage(str(tmp_path)).read("a.json") == b"1"
    with pytest.raises(InputError, match="ftp"):
        open_storage("ftp://host/run")
