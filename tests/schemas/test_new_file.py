"""What a command made before is never written over: names are new, or refused."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.errors import InputError
from schemas.new_file import new_folder, short_name, write_all_new, write_new


def _fill(folder: Path, text: str) -> Path:
    (folder / "image.png").write_text(text)
    return folder


def test_every_call_gets_a_folder_of_its_own_at_the_same_time_too(tmp_path):
    def call(number: int) -> Path:
        with new_folder(None, tmp_path / "images", "a-star") as folder:
            return _fill(folder, str(number))

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(call, range(24)))
    assert len(set(folders)) == 24
    assert [(folder / "image.png").read_text() for folder in folders] == [str(i) for i in range(24)]
    assert {folder.name for folder in folders} == {"a-star", *(f"a-star-{i}" for i in range(2, 25))}


def test_a_folder_that_nothing_came_into_is_gone_again(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(None, tmp_path, "a-star"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), new_folder(None, tmp_path, "a-star") as folder:
        (_fill(folder, "half") / "missing").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a-star"]


def test_nor_do_the_folders_above_it_stay_that_were_made_for_it(tmp_path):
    (tmp_path / "mine").mkdir()
    for out in (None, tmp_path / "deep" / "out", tmp_path / "mine"):
        with pytest.raises(KeyboardInterrupt), new_folder(out, tmp_path / "images", "a-star"):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_command_that_is_told_to_end_leaves_no_empty_folder(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), new_folder(None, tmp_path / "images", "a-star"):
        signal.raise_signal(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_is_named_is_new_or_empty(tmp_path):
    with new_folder(tmp_path / "deep" / "out", tmp_path / "images", "name") as folder:
        assert _fill(folder, "first") == tmp_path / "deep" / "out"
    with pytest.raises(InputError, match=r"holds 'image.png' already"), new_folder(folder, tmp_path, "name"):
        pass
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(InputError, match="cannot be made"), new_folder(place, tmp_path, "name"):
            pass
    assert (folder / "image.png").read_text() == "first"


def test_files_with_other_bytes_stay_as_they_are(tmp_path):
    write_new(tmp_path / "deep" / "a.json", "one", "--out")
    write_new(tmp_path / "deep" / "a.json", "one", "--out")
    with pytest.raises(InputError, match="not written over"):
        write_new(tmp_path / "deep" / "a.json", "two", "--out")
    with pytest.raises(InputError, match=r"a\.json.*not written over"):
        write_all_new(tmp_path / "deep", {"b.json": b"two", "a.json": b"two"}, "--out")
    assert {path.name: path.read_text() for path in (tmp_path / "deep").iterdir()} == {"a.json": "one"}
    with pytest.raises(InputError, match="not written over"):
        write_new(tmp_path / "deep", "a folder", "--out")
    with pytest.raises(InputError, match="cannot be written"):
        write_new(tmp_path / "deep" / "a.json" / "b", "x", "--out")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a photo of <a> star", "a-photo-of-a-star"),
        ("../../etc/passwd", "etc-passwd"),
        ("赤い星", "image"),
        ("-" * 300 + "x" * 300, "x" * 40),
        ("a photo of a red star left of a blue ring", "a-photo-of-a-red-star-left-of-a-blue"),
        ("a photo of a red star left of a blue dog", "a-photo-of-a-red-star-left-of-a-blue-dog"),
        ("\0\n", "image"),
    ],
)
def test_a_name_is_harmless_and_short(text, name):
    assert short_name(text, "image") == name
