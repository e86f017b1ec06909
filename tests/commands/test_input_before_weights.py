"""What a person typed is looked at before gigabytes of weights are: nobody fetches them to hear of a typo."""

import json

import pytest

from commands.main import main

FREE = "a man and his dog"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a little of everything, and no weights anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "free.txt").write_text(FREE)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"prompt": 3}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run" / "run.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("run --preset flux --run new --prompts nope.txt", "nope.txt: no such file"),
        ("run --preset flux --run new --prompts bad.jsonl", "bad.jsonl:1: 3 is no text"),
        ("run --preset flux --run new --subsets general --detailed-prompts nope.txt", "nope.txt: no such file"),
        ("run --preset flux --run new --subsets editing --edits nope.parquet", "nope.parquet: no such file"),
        ("run --preset flux --run new --annotate --reflect.prompt nope.txt", "no prompt template 'nope.txt'"),
        ("search --preset flux --run new --prompts nope.txt", "nope.txt: no such file"),
        (
            "search --preset flux --run new --prompts free.txt --tools.verifier.kinds atoms",
            "free.txt:1: 1 of 1 prompts",
        ),
        ("reflect --preset flux --prompts nope.txt", "nope.txt: no such file"),
        ("reflect --preset flux cats --out full", "holds 'notes.txt' already"),
        ("reflect --preset flux cats --requirements.kind vlm --requirements.prompt nope.txt", "template 'nope.txt'"),
        ("generate --preset flux cats --out full", "holds 'notes.txt' already"),
        ("distill --preset schnell --concepts nope --run new", "nope: no concepts"),
        ("dual-process --preset schnell --config nope.yaml --out new", "nope.yaml: no such file"),
        ("drift --preset flux nope full", "nope: no such folder"),
        ("evaluate geneval --preset flux --images nope", "nope: no images"),
        ("evaluate commonsense-t2i --data nope.json", "nope.json: no such file"),
        ("corrector --preset flux --data nope --out new", "nope: no such folder"),
        ("verifier --preset flux --data full --out new", "full: no .tar file there"),
        ("reflector --preset flux --data nope --out a-run", "a-run: is a run's folder"),
        ("condenser --preset flux --data nope.jsonl --out new", "nope.jsonl"),
    ],
)
def test_what_was_typed_is_named_and_no_weights(typed, named, here, capsys):
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "hf download" not in said
    assert not (here / "new" / "run.json").exists()


def test_missing_weights_are_named_before_libraries_load(here, capsys, monkeypatch):
    """Of a training: its data are there."""
    (here / "pairs.jsonl").write_text(
        "".join(json.dumps({"long": f"{i} {i}", "short": str(i)}) + "\n" for i in range(9))
    )
    monkeypatch.setattr("trainers.condenser.CondenserTrainable", None)
    assert main(["condenser", "--preset", "flux", "--data", "pairs.jsonl", "--out", "new"]) == 2
    said = capsys.readouterr().err
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct" in said
    assert "loading" not in said
