"""Paths and URIs as people misspell them: said, and never made a folder of."""

from pathlib import Path

import pytest

from commands.main import main
from commands.runs import shared_uri
from schemas.errors import InputError
from schemas.open_storage import open_storage
from schemas.places import checked_place, local_path
from schemas.storage import LocalStorage

MISSPELT = {
    "s3:/bucket/run": "s3://bucket/run",
    "s3:bucket/run": "s3://bucket/run",
    "S3://bucket/run": "s3://bucket/run",
    "s3:///bucket/run": "s3://bucket/run",
    "s3://": "s3://BUCKET",
    "s3a://bucket/run": "s3://bucket/run",
    "gs:/bucket": "gs://bucket",
    "GS://bucket": "gs://bucket",
    "gcs:bucket": "gcs://bucket",
    "abfs:/container/run": "abfs://container/run",
    "hf:/datasets/a/b": "hf://datasets/a/b",
    "hf:datasets/a/b": "hf://datasets/a/b",
    "file://host/run": "file:///host/run",
    "file:run": "file:///run",
    "file:/tmp/run": "file:///tmp/run",
    "FILE:///tmp/run": "file:///tmp/run",
}
COMMANDS = ("run", "status", "resume", "gc", "verify", "report", "search")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(("place", "meant"), MISSPELT.items())
def test_a_misspelt_uri_is_refused_with_the_right_one(place, meant):
    with pytest.raises(InputError) as refused:
        open_storage(place)
    assert refused.value.expected is not None
    assert refused.value.expected.startswith(meant)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_makes_a_folder_of_a_uri(command, capsys):
    for place in ("s3:/bucket", "S3://bucket/run"):
        assert main([command, f"--run={place}"]) == 2
        assert "expected: s3://bucket" in capsys.readouterr().err


@pytest.mark.parametrize(
    "place", ["s3://bucket/run", "gs://b", "abfs://c@account.dfs.core.windows.net/x", "hf://datasets/a/b"]
)
def test_what_is_spelt_right_is_left_as_it_is(place):
    assert checked_place(place) == place


@pytest.mark.parametrize("place", ["", "a\0b", "~nobody-of-that-name/run"])
def test_what_is_no_place_is_refused(place):
    with pytest.raises(InputError):
        open_storage(place)


def test_a_run_on_a_cluster_takes_no_misspelt_uri_for_a_relative_path():
    with pytest.raises(InputError):
        shared_uri("s3:/bucket/run", "ray")
    assert shared_uri("~/run", "ray") == str(Path.home() / "run")


def test_the_home_and_file_uris_are_folders(tmp_path):
    assert open_storage("~/run").uri == str(tmp_path / "home" / "run")
    assert open_storage("~").uri == str(tmp_path / "home")
    assert open_storage("file:///tmp/a%20b").uri == "/tmp/a b"
    assert isinstance(open_storage("./s3:/odd"), LocalStorage)
    assert isinstance(open_storage("runs/2026-01-01T10:00"), LocalStorage)


@pytest.mark.parametrize("flag", ["--run=~/run", "--run ~/run"])
def test_flags_know_the_home_as_shells_do(flag, tmp_path, capsys):
    assert main(["status", *flag.split()]) == 3
    assert f"{tmp_path}/home/run: no run here" in capsys.readouterr().err
    assert main(["run", *flag.split(), "--prompts=~/prompts.txt"]) == 2
    assert f"{tmp_path}/home/prompts.txt: no such file" in capsys.readouterr().err


def test_a_prompt_that_begins_with_a_tilde_is_a_prompt():
    from commands.arguments import with_home

    for text in ("~ a red circle", "~10 cats", "--prompt=~ a cat", "~", "a ~/b"):
        assert with_home(text) == (text if text != "~" else str(Path.home()))


@pytest.mark.parametrize("place", ["s3://bucket/out", "gs:/bucket", "file:///tmp/x"])
def test_what_is_written_here_alone_takes_no_uri(place):
    with pytest.raises(InputError, match="places on this machine"):
        local_path(Path(place))


def test_out_flags_take_no_uri(capsys):
    assert main(["generate", "a cat", "--out", "s3://bucket/images"]) == 2
    said = capsys.readouterr().err
    assert "s3:/bucket/images: only places on this machine" in said
    assert "field: --out" in said
