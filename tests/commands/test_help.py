"""Help in two sizes: an everyday page of a command, with examples that its own flags take, and everything."""

import re
import shlex

import pytest

from commands import arguments
from commands.everyday import PAGES
from commands.main import GROUPS, main

COMMANDS = [name for group in GROUPS.values() for name in group.commands]
PYTHON = re.compile(r"\b(None\}|\{None|STR|INT|FLOAT|BOOL|UNION)\b|\{fixed\}")


def page_of(capsys, monkeypatch, *words: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


def metavars(lines: list[str]) -> list[str]:
    """What stands behind each flag, up to the column where its help begins. A box's side stands before it."""
    found = (re.match(r"\W{2,4}(--[\w.-]+,? ?)+(?P<word>\S*( \S+)*)", line) for line in lines)
    return [match["word"] for match in found if match]


def test_every_command_has_a_page_and_no_page_is_left_over():
    assert set(PAGES) == {*COMMANDS, "evaluate geneval2", "evaluate commonsense-t2i", "plan search"}


@pytest.mark.parametrize("command", PAGES)
def test_help_is_a_page_that_begins_with_examples(command, capsys, monkeypatch):
    lines = page_of(capsys, monkeypatch, *command.split(), "--help")
    assert len(lines) <= 60
    usage = next(i for i, line in enumerate(lines) if line.startswith("usage:"))
    examples = [line for line in lines[:usage] if re.match(rf"  python -m \w+ {command.split()[0]} ", line)]
    assert len(examples) == len(PAGES[command].examples) >= 1
    assert max(map(len, examples)) <= 100
    assert any("--help-all" in line for line in lines)
    assert not [word for word in metavars(lines) if PYTHON.search(word)]


@pytest.mark.parametrize("command", ["run", "search", "reflector"])
def test_the_page_of_another_preset_is_no_longer(command, capsys, monkeypatch):
    assert len(page_of(capsys, monkeypatch, command, "--preset", "flux", "--help")) <= 60


@pytest.mark.parametrize("command", PAGES)
def test_examples_are_what_the_command_takes(command, monkeypatch):
    """As a shell would hand them over; nothing is done behind the parser."""
    taken, real = [], arguments.tyro.cli

    def parsed(*words, **settings):
        taken.append(real(*words, **settings))
        raise StopIteration

    monkeypatch.setattr(arguments.tyro, "cli", parsed)
    for example in PAGES[command].examples:
        words = shlex.split(re.split(r" [|>] ", example.replace("\\\n", " "))[0])
        assert words[0] == command.split()[0]
        with pytest.raises(StopIteration):
            main(words)
    assert len(taken) == len(PAGES[command].examples)


@pytest.mark.parametrize("command", ["run", "search", "corrector", "dual-process", "vocabulary", "reflect"])
def test_help_all_lists_more_and_no_type_of_python(command, capsys, monkeypatch):
    everyday = metavars(page_of(capsys, monkeypatch, command, "--help"))
    lines = page_of(capsys, monkeypatch, command, "--help-all")
    everything = metavars(lines)
    assert len(everything) > len(everyday)
    assert not [word for word in everything if PYTHON.search(word)]
    assert any("--help SUBJECT" in line for line in lines)


def test_what_may_be_absent_is_shown_as_what_it_is_when_it_is_there(capsys, monkeypatch):
    text = "\n".join(page_of(capsys, monkeypatch, "run", "--help"))
    assert "--fork DIR " in text
    assert "--prompts FILE " in text
    assert "--subsets {rule,general,length,editing} ..." in text


def test_a_flag_that_is_named_beside_help_brings_its_group(capsys, monkeypatch):
    text = "\n".join(page_of(capsys, monkeypatch, "run", "--generate.workers.count", "2", "--help"))
    assert "--generate.workers.gpus" in text
    assert "--ground.workers.gpus" not in text
