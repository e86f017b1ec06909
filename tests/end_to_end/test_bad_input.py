"""`python -m pipelines run` on bad input: exit code, a message with file, line and field, and no folder left behind."""

import json
import re

import pytest

from commands.main import main

GOOD = {"prompt": "a red square", "tag": "colors", "include": [{"class": "square", "count": 1, "color": "red"}]}


def lines(*rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def clause(**changes) -> dict:
    return GOOD | {"include": [GOOD["include"][0] | changes]}


FILES = {
    "broken JSON": (lines(GOOD, GOOD, '{"prompt": "a'), r"prompts\.jsonl:3: .*"),
    "no object": (lines(GOOD, "[1, 2]"), r"prompts\.jsonl:2: .*"),
    "unknown class": (
        lines(GOOD, clause(**{"class": "unicorn"})),
        r"prompts\.jsonl:2: .*unicorn.*\n  field: include.*class",
    ),
    "negative count": (lines(GOOD, GOOD, clause(count=-1)), r"prompts\.jsonl:3: .*-1.*\n  field: include.*count"),
    "unknown tag": (lines(GOOD | {"tag": "smell"}), r"prompts\.jsonl:1: .*smell.*\n  field: tag"),
    "no prompt": (lines(GOOD, {"tag": "colors"}), r"prompts\.jsonl:2: .*\n  field: prompt"),
    "duplicate ids": (lines(GOOD | {"id": "a"}, GOOD | {"id": "a"}), r"prompts\.jsonl:2: 'a' .*line 1\n  field: id"),
    "evil id": (lines(GOOD | {"id": "../evil"}), r"prompts\.jsonl:1: .*\n  field: id"),
    "nothing": ("", r"prompts\.jsonl: .*"),
}


def refused(capsys, tmp_path, *arguments: str, code: int = 2) -> str:
    """What a refused `run` prints."""
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    try:
        ended = main(["run", *arguments])
    except SystemExit as error:  # usage errors
        ended = error.code
    printed = capsys.readouterr()
    assert ended == code, printed.err
    assert "Traceback" not in printed.out + printed.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    return printed.out + printed.err


@pytest.mark.parametrize("name", FILES)
def test_a_bad_prompt_file_is_refused_before_anything_is_made(name, tmp_path, capsys):
    content, message = FILES[name]
    (tmp_path / "prompts.jsonl").write_text(content)
    printed = refused(capsys, tmp_path, "--run", str(tmp_path / "run"), "--prompts", str(tmp_path / "prompts.jsonl"))
    assert re.search(message, printed), printed
    assert "expected:" in printed or name == "broken JSON"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "nowhere.jsonl"], r"nowhere\.jsonl"),
        (["--num-promts", "3"], r"num-promts"),
        (["--num-prompts", "many"], r"many"),
        (["--num-prompts", "0"], r"field: --num-prompts"),
        (["--num-prompts", "-1"], r"-1"),
        (["--unit-size", "0"], r"field: --unit-size"),
        (
            ["--preset", "macro"],
            r"unknown preset 'macro'\n  field: --preset\n  expected: flux or flux-24gb or flux2-klein or",
        ),
        (["--preset"], r"--preset"),
        (["--schedule", "sideways"], r"sideways"),
        (["--vocabulary", "nowhere.json"], r"nowhere\.json"),
        (["--generate.generator.flux.model", "nowhere/model"], r"no weights for 'nowhere/model'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_refused_before_anything_is_made(arguments, message, tmp_path, capsys):
    printed = refused(capsys, tmp_path, "--run", str(tmp_path / "run"), *arguments)
    assert re.search(message, printed), printed
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_folder(tmp_path, capsys):
    assert "--run" in refused(capsys, tmp_path)


def test_a_folder_that_holds_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    assert "chapter.tex" in refused(capsys, tmp_path, "--run", str(tmp_path / "thesis"), code=3)
    assert "no run" in refused(capsys, tmp_path, "--run", str(tmp_path / "thesis" / "chapter.tex"), code=3)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_folder_whose_run_json_does_not_read_is_refused(tmp_path, capsys, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(content)
    assert "run.json" in refused(capsys, tmp_path, "--run", str(tmp_path / "run"), code=3)


@pytest.mark.parametrize("command", ["resume", "retry", "verify", "status", "report", "gc"])
def test_commands_on_a_folder_that_is_no_run_end_with_3(command, tmp_path, capsys):
    assert main([command, "--run", str(tmp_path / "missing")]) == 3
    assert "no run here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_a_usage_error(capsys):
    assert main(["fly"]) == 2
    assert "expected: run" in capsys.readouterr().err
    assert main([]) == 2
