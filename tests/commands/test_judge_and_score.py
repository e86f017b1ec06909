"""`python -m inference judge` and `score`, on random weights and bad input."""

import json
import os

import numpy as np
import pytest

from commands.main import main
from schemas.images import encode_png


@pytest.fixture
def files(tmp_path):
    paths = []
    for i in range(2):
        paths.append(tmp_path / f"image_{i}.png")
        paths[-1].write_bytes(encode_png(np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)))
    return [str(path) for path in paths]


def test_a_verdict_for_each_image_with_what_was_found(files, tmp_path, capsys):
    from microworld.training.judge import JudgeRecipe, build_color_classifier, build_detector, save

    recipe = JudgeRecipe(detector_dims=(8, 16), detector_depths=(1, 1), head_dim=8, color_dims=(8, 16))
    for name, model, side in (
        ("detector", build_detector(recipe), recipe.input_px),
        ("color", build_color_classifier(recipe), 16),
    ):
        (tmp_path / name).mkdir()
        save(model, side, tmp_path / name)
    argv = ["judge", "a photo of two stars", *files, "--judge.segmentation.model", str(tmp_path)]
    assert main(argv) == 0
    assert f"{files[1]}: wrong" in capsys.readouterr().out
    assert main([*argv, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == files
    assert all(row["reasons"] for row in rows)


@pytest.mark.parametrize("command", ["judge", "check", "score"])
def test_all_files_that_do_not_do_are_named_before_a_model_is_looked_for(command, files, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG no image")
    os.mkfifo(tmp_path / "pipe.png")
    bad = [str(tmp_path / name) for name in ("cut.png", "pipe.png", "gone.png")]
    assert main([command, "a photo of two stars", *files, *bad]) == 2
    said = capsys.readouterr().err
    assert "3 files do not do" in said
    assert all(path in said for path in bad)


def test_files_that_do_not_do_are_left_out_on_demand(files, tmp_path, capsys):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG no image")
    argv = ["score", "a photo of two stars", files[0], str(tmp_path / "cut.png"), files[1], "--skip-bad", "--json"]
    assert main(argv) == 0
    said = capsys.readouterr()
    assert [row["file"] for row in json.loads(said.out)] == files
    assert f"skipped: {tmp_path}/cut.png" in said.err


def test_bad_input_ends_with_two_and_says_what_is_wrong(files, capsys):
    assert main(["judge", "a photo of two stars", "nowhere.png"]) == 2
    assert "nowhere.png: no such file" in capsys.readouterr().err
    assert main(["judge", "something else entirely", files[0]]) == 2
    assert main(["score", " ", files[0]]) == 2
    assert main(["score", "a star"]) == 2
    assert main(["judge", "a photo of a star", files[0], "--judge.segmentation.model", "nowhere/judge"]) == 2
    assert "no weights for 'nowhere/judge'" in capsys.readouterr().err


def test_any_number_of_rewards_of_any_kind_are_shown(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "class Red:\n    def score(self, images, prompts):\n        return [image[..., 0].mean() for image in images]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    argv = ["score", "two red stars", *files, "--json", "--rewards.0.weight", "0"]
    more = ["--rewards.3.kind", "own", "--rewards.3.own.factory", "mine:Red", "--rewards.4.kind", "trained"]
    more += ["--rewards.4.trained.model", "micro/verifier", "--rewards.5.kind", "vqa-score", "--rewards.5.name", "yes"]
    more += ["--rewards.5.vqa-score.prompt", "micro/verify"]
    assert main([*argv, *more]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = ["file", "hps", "pick", "own", "trained", "yes", "ensemble"]
    assert [list(row) for row in rows] == [names, names]
    means = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)[..., 0].mean() for i in range(2)]
    assert [row["own"] for row in rows] == pytest.approx(means)
    assert 0 <= rows[0]["yes"] <= 1
    assert rows[0]["ensemble"] == pytest.approx(-rows[1]["ensemble"])
    assert main([*argv, "--rewards.3.kind", "own", "--rewards.3.own.factory", "mine:Blue"]) == 2
    assert "'mine' has no callable 'Blue'" in capsys.readouterr().err
    assert main([*argv, "--rewards.3.kind", "hpsv3"]) == 2
    said = capsys.readouterr().err
    assert "MizzenAI/HPSv3" in said
    assert "Qwen/Qwen2-VL-7B-Instruct" in said
