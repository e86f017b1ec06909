import os
import stat

import numpy as np
import pytest

from schemas.atomic_file import create_whole, put_in_place, replacing, write_whole


def test_bytes_and_text_take_the_place_of_what_was_there(tmp_path):
    path = tmp_path / "card.json"
    write_whole(path, b"one")
    write_whole(path, "zwölf")
    assert path.read_text("utf-8") == "zwölf"
    assert os.listdir(tmp_path) == ["card.json"]


def test_others_may_read_what_this_process_lets_them_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "shared", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640


@pytest.mark.parametrize("at", ["os.fsync", "os.replace"])
def test_what_fails_before_the_rename_leaves_the_old_file_alone(tmp_path, monkeypatch, at):
    write_whole(tmp_path / "a", b"old")

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(at, fails)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_exception_while_a_library_writes_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "arrays.npz"
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, x=np.arange(3))

    def stopped():
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, x=np.arange(9))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    assert np.load(path)["x"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["arrays.npz"]


def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: (done.append("folder" if _is_folder(fd) else "file"), sync(fd)))
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_whole(tmp_path / "a", b"1")
    assert done == ["file", "rename", "folder"]


def _is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_a_name_is_created_once(tmp_path):
    assert create_whole(tmp_path / "lease", b"mine")
    assert not create_whole(tmp_path / "lease", b"yours")
    assert (tmp_path / "lease").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["lease"]


def test_a_folder_takes_its_name_unless_another_has_it(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(name)
    put_in_place(tmp_path / "first", tmp_path / "model")
    with pytest.raises(OSError, match="not empty"):
        put_in_place(tmp_path / "second", tmp_path / "model")
    assert (tmp_path / "model" / "deep" / "file").read_text() == "first"
