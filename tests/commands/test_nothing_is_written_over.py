"""Commands that write pictures: every call has its own place, and each picture says what made it."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands.generate import IMAGES
from commands.made_by import RECORD, MadeBy
from commands.main import main
from commands.reflect import REFLECTED
from inference.generator import GeneratorConfig
from pipelines.kept_results import KEY, check_results
from schemas.errors import InputError
from schemas.images import decode_image
from schemas.redaction import guard

STAR = "a photo of a star"
QUICK = ("--generator.flux.num-steps", "2", "--num-images", "2")
ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_get_a_new_folder_each_time_and_say_how_they_were_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", STAR, "--seed", "3", *QUICK]) == 0
    first = files(tmp_path)
    assert main(["generate", STAR, "--seed", "4", *QUICK]) == 0
    assert first.items() <= files(tmp_path).items()
    folders = [tmp_path / "images" / name for name in ("a-photo-of-a-star", "a-photo-of-a-star-2")]
    assert all(sorted(files(folder)) == ["image_0.png", "image_1.png", RECORD] for folder in folders)
    said = json.loads((folders[0] / RECORD).read_text())
    assert said["prompt"] == STAR
    assert [image["file"] for image in said["images"]] == ["image_0.png", "image_1.png"]
    texts = Image.open(folders[0] / "image_1.png").text  # pyright: ignore[reportAttributeAccessIssue]
    assert (texts["prompt"], texts["seed"], texts["number"]) == (STAR, "3", "1")
    assert texts["noise_seed"] == str(said["images"][1]["noise_seed"])
    assert texts["model"] == ", ".join(said["models"]) == "micro/flux"
    assert said["settings"]["GeneratorConfig"]["flux"]["num_steps"] == 2
    # The command that stands there draws the same pixels again.
    words = shlex.split(texts["command"])
    assert words[:4] == ["python", "-m", "inference", "generate"]
    assert main([*words[3:], "--out", "again"]) == 0
    for name in ("image_0.png", "image_1.png"):
        first, again = (decode_image((folder / name).read_bytes()) for folder in (folders[0], Path("again")))
        assert np.array_equal(first, again)
    capsys.readouterr()
    before = files(tmp_path)
    assert main(["generate", STAR, "--out", "again", *QUICK]) == 2
    assert "'again' already" not in (problem := capsys.readouterr().err)
    assert "nothing is written over" in problem
    assert files(tmp_path) == before


def test_default_folders_are_ignored_by_git_and_docker():
    for name in (IMAGES, REFLECTED):
        assert f"/{name}/" in (ROOT / ".gitignore").read_text().splitlines()
        assert str(name) in (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("prompt", ["ein roter Äpfel 🍎", "NUL \0 and \ud800", "x" * 70_000, "a\nb\x1b[2J"])
def test_any_prompt_can_stand_in_a_picture(prompt, tmp_path):
    made_by = MadeBy.of("generate", [prompt], "micro", GeneratorConfig())
    (tmp_path / "a.png").write_bytes(made_by.png(np.zeros((8, 8, 3), np.uint8), prompt, 0))
    text = Image.open(tmp_path / "a.png").text["prompt"]  # pyright: ignore[reportAttributeAccessIssue]
    assert text.replace("\ufffd", "") == "".join(c for c in prompt if c not in "\0\ud800").replace("\x1b[2J", "")
    assert json.loads(made_by.record(prompt=prompt))["preset"] == "micro"


def test_no_secret_stands_in_a_picture():
    guard("sk-very-secret-key")
    argv = ["a star", "--vlm.base-url", "http://user:hush@host/v1?api_key=whisper", "sk-very-secret-key"]
    made_by = MadeBy.of("reflect", argv, "micro", replace(GeneratorConfig()))
    png = made_by.png(np.zeros((8, 8, 3), np.uint8), "sk-very-secret-key", 0)
    for text in (made_by.command, made_by.record(prompt="sk-very-secret-key"), png.decode("latin-1")):
        assert not [secret for secret in ("hush", "whisper", "very-secret") if secret in text]


def test_results_of_another_judge_are_not_written_over(tmp_path):
    check_results(tmp_path, "mine")
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="another program"):
        check_results(tmp_path, "mine")
    for summary in ("[", "[]", "{}", json.dumps({KEY: "other", "judge": "someone"})):
        (tmp_path / "summary.json").write_text(summary)
        with pytest.raises(InputError, match="not written over"):
            check_results(tmp_path, "mine")
    (tmp_path / "summary.json").write_text(json.dumps({KEY: "mine"}))
    check_results(tmp_path, "mine")


def test_a_concept_file_that_was_changed_by_hand_stays(tmp_path, capsys):
    path = tmp_path / "star.yaml"
    assert main(["questions", STAR, "--out", str(path)]) == 0
    assert main(["questions", STAR, "--out", str(path)]) == 0
    path.write_text(path.read_text() + "# mine\n")
    assert main(["questions", STAR, "--out", str(path)]) == 2
    assert "not written over" in capsys.readouterr().err
    assert path.read_text().endswith("# mine\n")


@pytest.mark.parametrize("flags", [["--images", "out"], ["--out", "out"]])
def test_pairs_are_not_judged_into_a_folder_with_other_results(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = ("prompt1", "prompt2", "description1", "description2")
    Path("pairs.json").write_text(json.dumps([dict.fromkeys(names, STAR)]))
    Path("out").mkdir()
    Path("out/results.jsonl").write_text("{}\n")
    before = files(tmp_path)
    command = ["evaluate", "commonsense-t2i", "--data", "pairs.json", "--preset", "micro", "--judge.kind", "clip"]
    for summary in (None, {KEY: "other", "judge": "someone"}):
        if summary is not None:
            Path("out/summary.json").write_text(json.dumps(summary))
            before = files(tmp_path)
        assert main([*command, *flags]) == 2
        assert "not written over" in capsys.readouterr().err
        assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["README.md", "pytorch_lora_weights.safetensors"])
def test_a_concept_is_not_taught_into_a_folder_of_something_else(name, tmp_path, capsys):
    concept, out = tmp_path / "star.yaml", tmp_path / "out"
    assert main(["questions", STAR, "--out", str(concept)]) == 0
    out.mkdir()
    (out / name).write_text("mine")
    assert main(["dual-process", "--preset", "micro", "--config", str(concept), "--out", str(out)]) == 2
    assert f"holds '{name}'" in capsys.readouterr().err
    assert files(out) == {name: b"mine"}
