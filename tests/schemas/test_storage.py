import errno
import json
import os
import signal
import stat
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


def test_the_leases_record_is_replaced_by_whoever_saw_the_last_one_alone(tmp_path):
    storage = LocalStorage(tmp_path)
    assert storage.lease() == (None, b"")
    first = storage.swap_lease(None, b"one")
    assert storage.swap_lease(None, b"two") is None
    assert storage.lease() == (first, b"one")
    second = storage.swap_lease(first, b"two")
    assert storage.swap_lease(first, b"three") is None
    assert storage.lease() == (second, b"two")
    third = storage.swap_lease(second, b"three")
    # A number that was given and is free again: who comes late for it has seen too old a record.
    assert storage.swap_lease(first, b"late") is None
    assert storage.lease() == (third, b"three")
    assert len(os.listdir(tmp_path / ".lease")) == 1


def test_the_lease_among_eight_processes_has_one_winner(tmp_path):
    code = """
        import sys
        from schemas.storage import LocalStorage
        storage = LocalStorage(sys.argv[1])
        print("ready", flush=True)
        sys.stdin.readline()
        won = []
        for i in range(20):
            version, _ = storage.lease()
            won.append(storage.swap_lease(version, f"{i} {sys.argv[2]}".encode()))
        print(*won)
    """
    workers = [python(code, tmp_path, number, stdin=subprocess.PIPE) for number in range(8)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    won = [version for worker in workers for version in worker.communicate(timeout=60)[0].split() if version != "None"]
    assert len(won) >= 20
    assert len(set(won)) == len(won), "a version was given twice"
    assert LocalStorage(tmp_path).lease()[0] == max(map(int, won))


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
    fenced = storage.fenced("token")
    for write in (storage.commit, fenced.commit, lambda path, data: storage.swap_lease(None, data)):
        with pytest.raises(StorageError, match="free some space, then `resume`"):
            write("big", bytes(10_000_000))
    assert sorted(os.listdir(small_disk / "run")) == [".lease", "small"]
    assert [os.listdir(small_disk / "run/.lease"), os.listdir(small_disk / "run/.lease/token")] == [["token"], []]
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
        "lease": lambda: storage.swap_lease(None, b"2"),
        "fence": lambda: storage.fenced("token"),
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
        for write in (storage.commit, storage.fenced("token").commit):
            try:
                write("block", bytes(100_000))
            except StorageError as error:
                print(error)
        print(os.listdir(sys.argv[1]), storage.read("block"))
    """
    output, errors = python(code, tmp_path).communicate(timeout=60)
    assert errors == ""
    assert output.count("File too large; the folder can be resumed") == 2
    assert "['block'] b'old'" in output.replace("'.lease', ", "").replace(", '.lease'", "")


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


def test_a_link_is_removed_and_never_what_it_points_to(tmp_path):
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "precious").write_text("!")
    for storage in (LocalStorage(tmp_path / "run"), LocalStorage(tmp_path / "run").fenced("token")):
        storage.commit("stages/a/key/block", b"1")
        (tmp_path / "run/stages/link").symlink_to(kept)
        (tmp_path / "run/stages/a/link").symlink_to(kept / "precious")
        storage.delete("stages/link")
        storage.delete("stages/a")
        assert storage.names("stages") == []
    assert (kept / "precious").read_text() == "!"


def test_what_desktops_and_file_servers_strew_about_is_no_file_of_ours(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.commit("stages/a", b"1")
    for name in (".DS_Store", "._a", ".nfs000000000001", ".tmp-a-1"):
        (tmp_path / "stages" / name).write_bytes(b"?")
    assert storage.names("stages") == ["a"]


class NoLinks:
    """What gcsfuse, exFAT and some of NFS answer."""

    def __init__(self, monkeypatch, error: int):
        def link(*paths):
            raise OSError(error, os.strerror(error))

        synced, opened = os.fsync, os.open

        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            synced(descriptor)

        def open_(path, flags, *mode, **options):
            if error == errno.ENOSYS and os.path.isdir(path):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            return opened(path, flags, *mode, **options)

        monkeypatch.setattr("os.link", link)
        monkeypatch.setattr("os.fsync", fsync)
        monkeypatch.setattr("os.open", open_)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_a_file_system_without_hard_links_or_folder_fsync_does(tmp_path, monkeypatch, error):
    NoLinks(monkeypatch, error)
    storage, source = LocalStorage(tmp_path / "run"), LocalStorage(tmp_path / "source")
    source.commit("a/b", b"1")
    version = storage.swap_lease(None, b"one")
    assert storage.swap_lease(None, b"two") is None
    assert storage.lease() == (version, b"one")
    fenced = storage.fenced("token")
    fenced.commit("a/c", b"2")
    fenced.copy_from(source, "a/b")
    storage.copy_from(source, "a/b")
    assert [storage.read("a/b"), storage.read("a/c")] == [b"1", b"2"]
    fenced.delete("a/b")
    assert storage.names("a") == ["c"]


def test_a_stage_on_another_disk_is_written_and_removed_there(small_disk, tmp_path):
    storage = LocalStorage(tmp_path / "run").fenced("token")
    storage.commit("shards/a", b"1")
    (small_disk / "stages").mkdir()
    (tmp_path / "run/stages").symlink_to(small_disk / "stages")
    storage.commit("stages/a/block", b"2")
    assert (small_disk / "stages/a/block").read_bytes() == b"2"
    other = LocalStorage(tmp_path / "fork")
    other.copy_from(storage, "stages/a/block")
    storage.delete("stages/a")
    assert storage.names("stages") == []
    assert other.read("stages/a/block") == b"2"


def test_a_folder_is_named_by_path_or_uri_and_other_schemes_are_a_usage_error(tmp_path):
    open_storage(f"file://{tmp_path}").commit("a.json", json.dumps(1).encode())
    assert open_storage(str(tmp_path)).read("a.json") == b"1"
    with pytest.raises(InputError, match="ftp"):
        open_storage("ftp://host/run")
