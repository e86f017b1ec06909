"""GenEval's judge at full size, from the command line: a folder in its layout, tiny random models."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from commands.evaluate import summary_of
from commands.main import main
from inference.judges.judge import JudgeConfig, judge_images
from inference.prompt_grammar import parse_prompt
from microworld.scenes.world import COLORS, SHAPES
from pipelines.evaluation import geneval_metadata
from pipelines.geneval_folder import read_layout, read_official
from schemas.images import encode_png
from schemas.records import PromptRow
from tests.support.tiny_judge import save_tiny_clip, save_tiny_mask2former


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
    judge = ["--preset", "flux", "--judge.kind", "mask2former", "--judge.mask2former.detector", str(detector)]
    judge += ["--judge.mask2former.clip", str(clip), "--judge.mask2former.batch-size", "2"]
    judge += ["--judge.mask2former.device", "cpu"]
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
    assert main(["evaluate", "geneval", "--images", str(images), "--preset", "flux"]) == 2
    assert "mask2former-swin-small-coco-instance" in capsys.readouterr().err
    assert not (images / "results.jsonl").exists()


STAR = geneval_metadata(PromptRow(parse_prompt("a photo of a red star")))


@pytest.fixture
def stars(tmp_path):
    """Two prompts of the micro world with an image each."""
    for number in range(2):
        samples = tmp_path / "images" / f"{number:05}" / "samples"
        samples.mkdir(parents=True)
        (samples / "0000.png").write_bytes(encode_png(np.full((32, 32, 3), 200, np.uint8)))
        (samples.parent / "metadata.jsonl").write_text(json.dumps(STAR) + "\n")
    return tmp_path / "images"


def refusal(capsys, *arguments) -> str:
    """What is said of bad input, which no result may be written for."""
    assert main(["evaluate", "geneval", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def metadata_refusal(stars, capsys, data: bytes) -> str:
    (stars / "00001" / "metadata.jsonl").write_bytes(data)
    said = refusal(capsys, "--images", stars)
    assert "00001/metadata.jsonl" in said
    assert not (stars / "results.jsonl").exists()
    return said


@pytest.mark.parametrize("lost", ["metadata.jsonl", "samples/0000.png", "samples"])
def test_a_prompts_folder_that_lacks_a_part_is_named(stars, lost, capsys):
    (stars / "00001" / lost).rename(stars.parent / "elsewhere")
    said = refusal(capsys, "--images", stars)
    assert f"{stars}/00001: a prompt's folder without {lost.partition('/')[0]}" in said


def test_metadata_and_results_may_begin_with_a_byte_order_mark_and_break_lines(stars):
    """As Windows' editors save them, with a line separator within a prompt."""
    said = STAR | {"prompt": "a photo of\u2028a red star"}
    text = "\ufeff" + json.dumps(said, ensure_ascii=False) + "\r\n"
    for place in ("00000", "00001"):
        (stars / place / "metadata.jsonl").write_text(text, encoding="utf-8")
    assert [one.record.text for one in read_layout(stars)[0]] == ["a photo of a red star"] * 2
    results = stars / "official.jsonl"
    lines = [{"filename": f"x/0000{n}/samples/0000.png", "correct": bool(n), "prompt": "a\u2028b"} for n in (0, 1)]
    results.write_text("\ufeff" + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    names = [f"0000{n}/samples/0000.png" for n in (0, 1)]
    assert read_official(results, names) == dict(zip(names, (False, True), strict=True))


def test_other_folders_are_no_prompts(stars, capsys):
    (stars / "notes").mkdir()
    assert main(["evaluate", "geneval", "--images", str(stars), "--out", str(stars / "scored")]) == 0
    assert main(["evaluate", "geneval", "--images", str(stars), "--out", str(stars / "scored")]) == 0


def test_metadata_over_several_lines_is_read_as_genevals_script_reads_it(stars, capsys):
    (stars / "00001" / "metadata.jsonl").write_text(json.dumps(STAR, indent=2) + "\n")
    assert main(["evaluate", "geneval", "--images", str(stars)]) == 0
    lines = (stars / "results.jsonl").read_text().splitlines()
    assert [json.loads(json.loads(line)["metadata"]) for line in lines] == [STAR, STAR]


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"tag": ["colors"]}, "tag", "['colors'] is not known"),
        ({"tag": None}, "tag", "None is not known"),
        ({"tag": "countin"}, "tag", "single_object, two_object, counting, colors, position, color_attr"),
        ({"include": []}, "include", "nothing is asked for"),
        ({"include": [{"class": "bench", "count": 1}]}, "include[0].class", ", ".join(sorted(SHAPES))),
        ({"exclude": [{"class": "bench", "count": 1}]}, "exclude[0].class", ", ".join(sorted(SHAPES))),
        ({"include": [{"class": "star", "color": "pink"}]}, "include[0].color", ", ".join(sorted(COLORS))),
        ({"prompt": 5}, "prompt", "5 is no text"),
    ],
)
def test_metadata_that_no_verdict_can_be_given_for_is_refused(stars, change, field, says, capsys):
    said = metadata_refusal(stars, capsys, json.dumps(STAR | change).encode())
    assert f"field: {field}\n" in said
    assert says in said


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"prompt": "caf\xe9"}', "not valid UTF-8: byte 0xe9 at byte 16"),
        (b"[]", "is no JSON object"),
        (b"", "not valid JSON"),
        (json.dumps(STAR).encode() * 2, "Extra data"),
        (b'{"prompt": "a star",\n "tag": }', "line 2 column 9"),
        (b'{"prompt": "a star", "tag": "colors"}', "there is no include"),
    ],
)
def test_files_that_are_no_metadata_are_refused(stars, data, says, capsys):
    assert says in metadata_refusal(stars, capsys, data)


def test_classes_that_the_full_size_judge_does_not_know_are_refused_too(stars, tmp_path, capsys):
    detector, clip = save_tiny_mask2former(tmp_path / "detector"), save_tiny_clip(tmp_path / "clip")
    judge = ["--preset", "flux", "--judge.mask2former.detector", detector, "--judge.mask2former.clip", clip]
    judge += ["--judge.mask2former.device", "cpu"]
    assert "computer mouse, dining table, person" in refusal(capsys, "--images", stars, *judge)


def test_arguments_are_checked_before_anything_is_judged(stars, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("commands.evaluate.judge_images", lambda *_: pytest.fail("judged"))
    file, results = tmp_path / "file", stars / "results.jsonl"
    file.write_bytes(b"\xff")
    images = ("--images", stars)
    assert "missing.jsonl" in refusal(capsys, *images, "--official", tmp_path / "missing.jsonl")
    assert "not valid UTF-8" in refusal(capsys, *images, "--official", file)
    results.write_text('{"filename": "00009/samples/0000.png", "correct": true}\n')
    assert "names none of these images" in refusal(capsys, *images, "--official", results, "--out", tmp_path)
    results.write_text('{"filename": "00000/samples/0000.png", "correct": true}\n')
    assert "would be written over it" in refusal(capsys, *images, "--official", results)
    assert "field: --batch-size" in refusal(capsys, *images, "--batch-size", "0")
    assert "field: --out" in refusal(capsys, *images, "--out", file)
    assert "field: --out" in refusal(capsys, *images, "--out", file / "below")
    assert "field: --export" in refusal(capsys, *images, "--export", tmp_path / "exported")


def test_all_files_that_do_not_do_are_named_before_the_judge_is_loaded_and_left_out_on_demand(
    stars, capsys, monkeypatch
):
    samples = [stars / f"0000{number}" / "samples" for number in range(2)]
    (samples[0] / "0001.png").write_bytes(b"\x89PNG no image")
    (samples[0] / "0002.png").write_bytes((samples[0] / "0000.png").read_bytes()[:-40])
    os.mkfifo(samples[1] / "0001.png")
    (samples[1] / "0002.png").symlink_to("/dev/zero")
    for hidden in (samples[0] / "._0000.png", stars / ".DS_Store", stars / "00000" / "._metadata.jsonl"):
        hidden.write_bytes(b"of the file system")
    shutil.copytree(stars / "00000", stars / "._00000")
    (stars / "00002" / "samples").mkdir(parents=True)
    (stars / "00002" / "metadata.jsonl").write_text("[]")
    with monkeypatch.context() as patched:
        patched.setattr(JudgeConfig, "open", lambda _: pytest.fail("loaded"))
        said = refusal(capsys, "--images", stars)
    bad = ["00000/samples/0001.png", "00000/samples/0002.png", "00001/samples/0001.png: this is a FIFO"]
    bad += ["00001/samples/0002.png: this is a device", "00002/metadata.jsonl"]
    assert all(f"{stars}/{one}" in said for one in bad)
    assert "5 files do not do" in said
    assert "._" not in said
    assert main(["evaluate", "geneval", "--images", str(stars), "--skip-bad"]) == 0
    named = capsys.readouterr().err
    assert all(f"skipped: {stars}/{one}" in named for one in bad)
    lines = [json.loads(line) for line in (stars / "results.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == ["00000/samples/0000.png", "00001/samples/0000.png"]
    assert len(json.loads((stars / "summary.json").read_text())["skipped"]) == 5


def test_who_is_interrupted_goes_on_from_what_was_judged(stars, monkeypatch, capsys):
    for number in range(2, 5):
        shutil.copytree(stars / "00000", stars / f"0000{number}")
    argv = ["evaluate", "geneval", "--images", str(stars), "--batch-size", "1"]
    assert main(argv) == 0
    whole = (stars / "results.jsonl").read_bytes()
    (stars / "results.jsonl").unlink()
    asked = []

    def judge_three(judge, images, prompts):
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(images)
        return judge_images(judge, images, prompts)

    monkeypatch.setattr("commands.evaluate.judge_images", judge_three)
    assert main(argv) == 130
    assert not (stars / "results.jsonl").exists()
    partial = stars / "results.partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-20])  # the kill came while the third was written
    other = encode_png(np.full((32, 32, 3), 100, np.uint8))
    (stars / "00000" / "samples" / "0000.png").write_bytes(other)  # ... and the first image is another one now
    judged = []
    monkeypatch.setattr(
        "commands.evaluate.judge_images", lambda *given: judged.append(given[1]) or judge_images(*given)
    )
    assert main(argv) == 0
    assert len(judged) == 4  # all but the second
    assert not partial.exists()
    assert (stars / "results.jsonl").read_bytes() == whole


def test_every_tags_share_has_an_interval():
    lines = [{"correct": i % 3 > 0, "tag": "colors", "prompt": f"text {i}"} for i in range(60)]
    lines += [{"correct": True, "tag": "position", "prompt": "one text"}] * 4
    summary = summary_of(lines, "anyone")
    assert list(summary["by_tag_intervals"]) == ["colors", "position"]
    value, low, high = summary["by_tag_intervals"]["colors"]
    assert value == summary["by_tag"]["colors"] == pytest.approx(2 / 3)
    # 1.96 standard errors, sqrt(2/9 / 60)
    assert low == pytest.approx(value - 0.119, abs=0.03)
    assert high == pytest.approx(value + 0.119, abs=0.03)
    assert summary["by_tag_intervals"]["position"] == [1, None, None]
