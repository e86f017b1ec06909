"""GenEval's judge at full size, from the command line: a folder in its layout, tiny random models."""

import json
from pathlib import Path

import numpy as np

from pipelines.__main__ import main
from schemas.images import encode_png
from tests.tiny_judge import save_tiny_clip, save_tiny_mask2former


def layout(folder: Path) -> Path:
    for number, (prompt, tag, include) in enumerate(
        [
            ("a photo of a person", "single_object", [{"class": "person", "count": 1}]),
            ("a photo of a red computer mouse", "colors", [{"class": "computer mouse", "count": 1, "color": "red"}]),
        ]
    ):
        place = folder / f"{number:05}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps({"prompt": prompt, "tag": tag, "include": include}) + "\n")
        for sample in range(2):
            image = np.random.default_rng([number, sample]).integers(0, 255, (64, 64, 3), np.uint8)
            (place / "samples" / f"{sample:04}.png").write_bytes(encode_png(image))
    return folder


def test_a_folder_is_scored_by_mask2former_and_clip_and_says_so(tmp_path, capsys):
    images = layout(tmp_path / "images")
    detector, clip = save_tiny_mask2former(tmp_path / "detector"), save_tiny_clip(tmp_path / "clip")
    judge = ["--judge.kind", "mask2former", "--judge.mask2former.detector", str(detector)]
    judge += ["--judge.mask2former.clip", str(clip), "--judge.mask2former.batch-size", "2"]
    assert main(["evaluate", "geneval", "--images", str(images), "--out", str(tmp_path / "out"), *judge]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == [f"0000{p}/samples/000{s}.png" for p in (0, 1) for s in (0, 1)]
    assert set(lines[0]) == {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "transformers' weights, not GenEval's own" in summary["judge"]
    assert summary["num_images"] == 4
    assert summary["by_tag"]["overall"] == sum(line["correct"] for line in lines) / 4


def test_weights_that_are_not_here_are_named_before_anything_is_read(tmp_path, capsys):
    images = layout(tmp_path / "images")
    assert main(["evaluate", "geneval", "--images", str(images), "--judge.kind", "mask2former"]) == 2
    assert "mask2former-swin-small-coco-instance" in capsys.readouterr().err
    assert not (images / "results.jsonl").exists()
