"""One table of commands for `reflectionflow`, `python -m pipelines`, `trainers` and `inference`."""

import importlib

import pytest

from commands.main import GROUPS, main
from schemas.errors import StoppedError
from tests.support.full_disk import room_for


def test_names_are_unique_and_each_module_has_a_main():
    names = [name for group in GROUPS.values() for name in group.commands]
    assert len(set(names)) == len(names)
    for group in GROUPS.values():
        for module, _ in group.commands.values():
            assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize("package", [None, *GROUPS])
def test_help_lists_what_a_door_opens(package, capsys):
    assert main(["--help"], package) == 0
    said = capsys.readouterr().out
    for name, group in GROUPS.items():
        assert all((f"\n  {command} " in said) == (package in (None, name)) for command in group.commands)
    assert main([], package) == 2


def test_an_unknown_command_is_refused_by_what_there_is(capsys):
    assert main(["generate"], "pipelines") == 2
    said = capsys.readouterr().err
    assert "unknown command 'generate'" in said
    assert "run, search" in said
    assert main(["paint"]) == 2


def test_an_error_ends_with_its_exit_code(capsys):
    assert main(["status", "--run", "nowhere"]) != 0
    assert capsys.readouterr().err.startswith("error: ")


def test_who_asked_it_to_stop_hears_of_no_error(monkeypatch, capsys):
    def stop(argv):
        raise StoppedError("reflector: stopped after step 4 of 40")

    monkeypatch.setattr("commands.train_reflector.main", stop)
    assert main(["reflector"]) == 1
    assert capsys.readouterr().err == "reflector: stopped after step 4 of 40\n"


def test_a_full_disk_is_named_whoever_meets_it(tmp_path, monkeypatch, capsys):
    file = tmp_path / "page.html"
    monkeypatch.setattr("commands.status.main", lambda argv: file.write_bytes(b"x" * 100_000))
    with room_for(1000):
        assert main(["status"]) == 1
    assert "make room, then the same command again" in capsys.readouterr().err


def test_a_reader_that_went_away_ends_a_command_quietly(monkeypatch, capsys):
    def write(argv):
        raise BrokenPipeError

    monkeypatch.setattr("commands.status.main", write)
    assert main(["status"]) == 1
    assert capsys.readouterr().err == ""
