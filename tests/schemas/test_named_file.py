"""Files that others name: what may be read, and what would never end."""

import os
import socket

import pytest

from schemas.errors import InputError
from schemas.named_file import read_file, read_named_file


@pytest.fixture
def folder(tmp_path):
    """A folder of data with something of everything in it, and a secret beside it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    data = tmp_path / "data"
    (data / "below").mkdir(parents=True)
    (data / "a.png").write_bytes(b"picture")
    (data / "below" / "b.png").write_bytes(b"another")
    (data / "inner.png").symlink_to("below/b.png")
    (data / "outer.png").symlink_to(tmp_path / "secret.png")
    (data / "out").symlink_to(tmp_path)
    (data / "zero.png").symlink_to("/dev/zero")
    (data / "round.png").symlink_to("round.png")
    os.mkfifo(data / "pipe.png")
    return data


@pytest.mark.parametrize("name", ["a.png", "./a.png", "below/b.png", "below/../a.png", "inner.png"])
def test_what_lies_in_the_folder_is_read(folder, name):
    assert read_named_file(folder, name, 100) in (b"picture", b"another")
    assert read_named_file(folder, str(folder / name), 100) in (b"picture", b"another")


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "outer.png", "out/secret.png", "/etc/passwd", "/dev/zero", "zero.png", "below/../../secret.png"],
)
def test_what_lies_outside_is_not(folder, name):
    with pytest.raises(InputError, match="lies outside of the folder"):
        read_named_file(folder, name, 100)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pipe.png", "this is a FIFO"),
        ("below", "this is a folder"),
        ("", "this is a folder"),
        ("gone.png", "no such file"),
        ("a.png/b.png", "does not read"),
        ("a\0.png", "no name of a file"),
        ("n" * 300, "does not read|no name"),
        ("round.png", "no name of a file|does not read"),
        ("socket", "a device or socket"),
    ],
)
@pytest.mark.timeout(120)
def test_what_is_no_file_is_said(folder, name, says, monkeypatch):
    monkeypatch.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match=says):
            read_named_file(folder, name, 100)


def test_a_file_has_a_largest_size(folder):
    (folder / "large.png").write_bytes(bytes(101))
    assert len(read_file(folder / "large.png", 101)) == 101
    with pytest.raises(InputError, match="more than 100 bytes"):
        read_file(folder / "large.png", 100)


@pytest.mark.timeout(120)
def test_what_a_user_names_may_lie_anywhere_and_is_a_file_all_the_same(folder):
    assert read_file(folder / "outer.png", 100) == b"secret"
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(InputError, match="no regular file"):
            read_file(folder / name, 100)
