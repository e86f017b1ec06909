"""A run that came to little says which setting would keep more, with the command; one that came to much does not."""

import os
import shlex
from collections import Counter
from dataclasses import replace

import pytest

from commands.run import default_arguments, parse_run
from commands.runs import say_how_to_keep_more
from pipelines.conservation import Tally
from pipelines.keep_more import keep_more
from pipelines.run_folder import RunFolder
from recipes import catalogue
from schemas.open_storage import open_storage
from schemas.records import Outcome, Reason

MICRO = catalogue.load("micro", "dataset")


def told(reasons, **changes):
    return keep_more({reason.value: number for reason, number in reasons.items()}, replace(MICRO, **changes))


@pytest.mark.parametrize(
    ("reasons", "flags"),
    [
        ({Reason.TOO_EASY: 2, Reason.TOO_HARD: 3}, "--select.keep-bins easy medium hard"),
        ({Reason.ALL_CORRECT: 1}, "--generate.generator.flux.num-steps 2"),
        ({Reason.ALL_WRONG: 1}, f"--generate.candidates-per-prompt {2 * MICRO.generate.candidates_per_prompt}"),
        ({Reason.NO_MARGIN: 1}, "--pair.min-margin 0.25"),
        ({Reason.VERIFIER_DISAGREES: 1}, ""),
    ],
)
def test_each_reason_names_flags_that_there_are(reasons, flags):
    ((why, found),) = told(reasons)
    assert found == flags
    assert why.startswith(f"{sum(reasons.values())} ")
    changed = parse_run(["--run", "x", *shlex.split(flags)], "run").dataset
    assert (changed != default_arguments("micro").dataset) == bool(flags)


def test_explained_pairs_are_looked_for_among_more_images_where_the_nearest_are_taken():
    near = replace(MICRO.select, partner="nearest")
    ((why, flags),) = told({Reason.UNEXPLAINED_DIFFERENCE: 3}, select=near)
    assert why.startswith("3 pairs differed in more")
    assert flags == f"--select.top-k {MICRO.generate.candidates_per_prompt} --select.bottom-k 10"
    assert told({Reason.UNEXPLAINED_DIFFERENCE: 3}, select=replace(near, top_k=10, bottom_k=10))[0][1] == ""
    assert told({Reason.UNEXPLAINED_DIFFERENCE: 3})[0][1] == ""


def test_the_most_frequent_comes_first_and_what_no_setting_decides_is_left_out():
    found = told({Reason.ALL_WRONG: 2, Reason.TOO_EASY: 5, Reason.BROKEN_IMAGE: 9})
    assert [why.split()[0] for why, _ in found] == ["5", "2"]


def counted(shipped, **reasons):
    rejected = sum(reasons.values())
    prompts: Counter[str] = Counter({Outcome.SHIPPED: shipped, Outcome.REJECTED: rejected})
    return Tally(prompts=prompts, reasons=Counter({Reason[name].value: n for name, n in reasons.items()}))


def test_eight_prompts_that_came_to_one_pair_are_told_with_the_command(tmp_path, capsys, monkeypatch):
    folder = RunFolder(open_storage(str(tmp_path / "my run")), None)  # type: ignore[arg-type]
    typed = ["--run", str(tmp_path / "my run"), "--prompts", "mine.txt"]
    say_how_to_keep_more(folder, counted(1, TOO_EASY=5, ALL_CORRECT=2), MICRO, typed)
    said = capsys.readouterr().out
    assert "pairs came of 1 of 8 prompts" in said
    (command,) = [line for line in said.splitlines() if "python -m pipelines run" in line]
    argv = shlex.split(command[command.index("python -m") :])[4:]
    monkeypatch.chdir(tmp_path)
    arguments = parse_run(argv, "run")
    assert arguments.fork == f"{os.fspath(tmp_path)}/my run-more"
    assert arguments.dataset.select.keep_bins == ("easy", "medium", "hard")
    assert arguments.dataset.prompts == "mine.txt"
    say_how_to_keep_more(folder, counted(0, TOO_EASY=5), MICRO, None)
    assert "the command that it began with, and --fork" in capsys.readouterr().out
    for name in ("my run-more", "my run-more-2"):  # it was done, twice
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}")
    say_how_to_keep_more(folder, counted(0, TOO_EASY=5), MICRO, None)
    assert "/my run-more-3' --select" in capsys.readouterr().out
    for name in ("my run-more", "my run-more-2"):  # a fork's own hint: no name on top of a name
        fork = RunFolder(open_storage(str(tmp_path / name)), None)  # type: ignore[arg-type]
        say_how_to_keep_more(fork, counted(0, TOO_EASY=5), MICRO, None)
        assert "/my run-more-3' --select" in capsys.readouterr().out


def test_a_run_that_came_to_much_says_nothing(tmp_path, capsys):
    folder = RunFolder(open_storage(str(tmp_path)), None)  # type: ignore[arg-type]
    say_how_to_keep_more(folder, counted(4, TOO_EASY=4), MICRO, [])
    say_how_to_keep_more(folder, counted(0, BROKEN_IMAGE=4), MICRO, [])
    assert capsys.readouterr().out == ""
