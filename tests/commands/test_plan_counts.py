"""A plan is of this run: as many prompts and triplets as its files hold, and of a run that has begun its own."""

import json
from dataclasses import replace

import pytest

from commands.main import main
from microworld.scenes.edit_file import write_edit_file
from pipelines.new_run import new_dataset_run, new_search_run
from recipes import catalogue


def planned(capsys, *flags):
    assert main(["plan", *(str(flag) for flag in flags), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a photo of a star\n\na photo of two red circles\na photo of a ring\n")
    return path


def test_files_are_counted_and_what_is_composed_is_as_many_as_are_asked_for(file, tmp_path, capsys):
    edits = tmp_path / "edits.parquet"
    write_edit_file(edits, 5, seed=3)
    flags = ("--subsets", "rule", "general", "length", "editing", "--unit-size", "2", "--num-prompts", "4")
    plan = planned(capsys, *flags, "--prompts", file, "--edits", edits)
    kept = plan["prompts"].pop("editing")
    assert 0 < kept <= 4
    assert plan["prompts"] == {"rule": 3, "general": 4, "length": 4}
    assert plan["num_prompts"] == 11 + kept
    assert plan["num_units"] == 2 + 2 + 2 + -(-kept // 2)
    items = {stage["name"]: stage["num_items"] for stage in plan["stages"]}
    assert items["ground_objects"] == 3 * catalogue.load("micro", "dataset").generate.candidates_per_prompt
    assert items["condense_prompts"] == 4
    assert planned(capsys, *flags, "--prompts", file, "--num-prompts", "2")["prompts"]["rule"] == 2


def test_people_are_told_how_many_of_each(file, capsys):
    assert main(["plan", "--subsets", "rule", "general", "--detailed-prompts", str(file)]) == 0
    assert "51 prompts in 7 units, subsets rule 48, general 3" in capsys.readouterr().out


def test_a_file_that_a_run_would_refuse_is_refused(file, capsys):
    file.write_text("a photo of a cat\n")
    assert main(["plan", "--prompts", str(file)]) == 2
    assert f"{file}:1" in capsys.readouterr().err


def test_of_a_run_its_own_subsets_and_counts_are_planned(file, tmp_path, capsys):
    run = tmp_path / "run"
    config = replace(
        catalogue.load("micro", "dataset"), subsets=("general", "rule"), num_prompts=5, detailed_prompts=str(file)
    )
    new_dataset_run(str(run), "micro", config)
    assert planned(capsys, "--run", run)["prompts"] == {"general": 3, "rule": 5}
    file.unlink()
    assert planned(capsys, "--run", run)["prompts"] == {"general": 3, "rule": 5}
    assert planned(capsys, "--run", run, "--subsets", "rule", "--num-prompts", "900")["prompts"] == {"rule": 900}
    assert planned(capsys, "--run", run, "--preset", "micro")["prompts"] == {"rule": 48}


def test_of_a_search_too(file, tmp_path, capsys):
    run = tmp_path / "search"
    job = replace(catalogue.load("micro", "search"), prompts=str(file), images_per_prompt=2)
    new_search_run(str(run), "micro", job)
    for command in (("--run", run), ("search", "--run", run)):
        plan = planned(capsys, *command)
        assert (plan["num_prompts"], plan["num_images"]) == (6, 6 * 8)
