"""GenEval 2's scores of images in a folder, by a map, or of a search: invented prompts in the form of its data."""

import json
import os
import shutil

import numpy as np
import pytest

import commands.evaluate_geneval2 as evaluate_geneval2
from commands.main import main
from inference.vlm.vlm import VlmConfig
from microworld.scenes.world import Background, Scene, SceneObject, render
from pipelines.geneval2 import num_atoms, read_data, result_line, summarise
from schemas.errors import InputError
from schemas.images import encode_png
from schemas.records import Question

ROWS = [
    {
        "prompt": "two red stars <b>&</b> nothing",
        "atom_count": 3,
        "vqa_list": [
            ["How many stars are there?", "two"],
            ["Is there a red star?", "Yes"],
            ["Is there a star?", "Yes"],
        ],
        "skills": ["count", "attribute", "object"],
    },
    {
        "prompt": "a blue star",
        "atom_count": 2,
        "vqa_list": [
            ["How many stars are there?", "one"],
            ["Is there a blue star?", "Yes"],
            ["Is there a star?", "Yes"],
        ],
        "skills": ["count", "attribute", "object"],
    },
]
VLM = ["--vlm.kind", "in-process", "--vlm.model", "micro/vlm", "--vlm.device", "cpu", "--vlm.dtype", "float32"]
VLM += ["--prompt", "micro/question"]


def picture(color: str, places: tuple[float, ...]) -> bytes:
    scene = Scene(Background(), tuple(SceneObject("star", color, x, 16.0, 9.0) for x in places))
    return encode_png(next(iter(render([scene]).images)))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The data, and a folder with two images of the first prompt, the second of them wrong, and one of the second."""
    root = tmp_path_factory.mktemp("geneval2")
    (root / "data.jsonl").write_text("\ufeff" + "".join(json.dumps(row) + "\n\n" for row in ROWS))
    (root / "images").mkdir()
    blue = picture("blue", (16.0,))
    for name, data in (("00000_0", picture("red", (8.0, 24.0))), ("00000_1", blue), ("1", blue)):
        (root / "images" / f"{name}.png").write_bytes(data)
    return root


def evaluate(root, images="images", *arguments):
    argv = ["evaluate", "geneval2", "--data", root / "data.jsonl", "--images", root / images, *VLM, *arguments]
    return main([str(one) for one in argv])


@pytest.fixture
def copied(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "copy")


def test_a_folder_is_scored_by_soft_tifa(drawn, tmp_path, capsys):
    assert evaluate(drawn, "images", "--out", tmp_path) == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == ["00000_0.png", "00000_1.png", "1.png"]
    assert [line["correct"] for line in lines] == [True, False, True]
    for line in lines:
        values = [one["probability"] for one in line["questions"]]
        assert line["soft_tifa_am"] == pytest.approx(sum(values) / 3, abs=1e-5)
        assert line["soft_tifa_gm"] == pytest.approx(np.prod(values) ** (1 / 3), abs=1e-3)
    summary = json.loads((tmp_path / "summary.json").read_text())
    gm = [line["soft_tifa_gm"] for line in lines]
    assert summary["soft_tifa_gm"][0] == pytest.approx(100 * ((gm[0] + gm[1]) / 2 + gm[2]) / 2, abs=0.01)
    assert summary["gm_by_atom_count"]["2"][0] == pytest.approx(100 * gm[2], abs=0.01)
    assert summary["judge"] == "micro/vlm"
    assert (summary["num_prompts"], summary["num_images"], summary["num_questions"]) == (2, 3, 6)
    page = (tmp_path / "index.html").read_text()
    assert "<b>&</b> nothing" not in page
    assert page.count("<article") == 3
    assert "GM,  2 atoms" in capsys.readouterr().out
    assert not (tmp_path / "results.partial.jsonl").exists()


def test_scores_are_the_published_ones():
    """Of prompts: the mean of geometric and arithmetic means; of skills: over questions; of atoms: over prompts."""
    rows = [
        (0, 3, [("count", 0.25), ("object", 1.0)]),
        (1, 4, [("count", 0.5), ("object", 0.5), ("object", 0.0)]),
    ]
    lines = [
        {
            "row": number,
            "atom_count": count,
            "soft_tifa_am": np.mean([p for _, p in asked]),
            "soft_tifa_gm": np.prod([p for _, p in asked]) ** (1 / len(asked)),
            "questions": [{"skill": skill, "probability": p} for skill, p in asked],
        }
        for number, count, asked in rows
    ]
    found = summarise(lines, "anyone")
    assert found["soft_tifa_gm"][0] == 25.0
    assert found["soft_tifa_am"][0] == pytest.approx(100 * (0.625 + 1 / 3) / 2, abs=0.01)
    assert found["am_by_skill"]["object"][0] == 50.0
    assert found["am_by_skill"]["count"][0] == 37.5
    assert {count: value[0] for count, value in found["gm_by_atom_count"].items()} == {"3": 50.0, "4": 0.0}
    assert found["soft_tifa_gm"][1:] == [0.0, 50.0]


def test_a_map_of_prompts_is_relative_to_its_file_and_may_list_several(copied, capsys):
    places = {ROWS[0]["prompt"]: ["images/00000_0.png", "images/00000_1.png"], ROWS[1]["prompt"]: "images/1.png"}
    (copied / "mine.json").write_text(json.dumps(places | {"another": "nowhere.png"}))
    assert evaluate(copied, "mine.json") == 0
    out = copied / "mine.geneval2"
    summary = json.loads((out / "summary.json").read_text())
    assert evaluate(copied, "images") == 0
    assert summary == json.loads((copied / "images" / "summary.json").read_text())
    assert "1 more of no row" in capsys.readouterr().err


def test_ids_folders_and_other_endings_name_rows_too(copied):
    (copied / "data.jsonl").write_text(json.dumps(ROWS[0] | {"id": "star-7"}) + "\n" + json.dumps(ROWS[1]) + "\n")
    (copied / "images" / "1").mkdir()
    (copied / "images" / "1.png").rename(copied / "images" / "1" / "any name.PNG")
    (copied / "images" / "00000_0.png").rename(copied / "images" / "star-7.png")
    (copied / "images" / "00000_1.png").unlink()
    assert evaluate(copied) == 0
    lines = [json.loads(line) for line in (copied / "images" / "results.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines] == ["star-7.png", "1/any name.PNG"]


def test_all_that_is_missing_is_named_before_the_vlm_is_loaded_and_left_out_on_demand(copied, capsys, monkeypatch):
    (copied / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0] | {"prompt": "c"}]))
    (copied / "images" / "1.png").write_bytes(b"\x89PNG no image")
    os.mkfifo(copied / "images" / "00000_2.png")
    with monkeypatch.context() as patched:
        patched.setattr(VlmConfig, "open", lambda *_: pytest.fail("loaded"))
        assert evaluate(copied) == 2
        said = capsys.readouterr().err
    assert "3 files do not do" in said
    assert all(one in said for one in ("1.png", "00000_2.png: this is a FIFO", "data.jsonl:3: no image for row 2, 'c'"))
    assert evaluate(copied, "images", "--skip-bad") == 0
    summary = json.loads((copied / "images" / "summary.json").read_text())
    assert len(summary["skipped"]) == 3
    assert (summary["num_prompts"], summary["num_images"]) == (1, 2)


def test_who_is_interrupted_goes_on_from_what_was_judged(copied, tmp_path, monkeypatch):
    batches = ["images", "--batch-size", "1"]
    assert evaluate(copied, *batches, "--out", tmp_path / "whole") == 0
    asked = []
    ask = evaluate_geneval2._ask

    def two(vlm, shown, template):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(shown)
        return ask(vlm, shown, template)

    monkeypatch.setattr(evaluate_geneval2, "_ask", two)
    out = tmp_path / "again"
    assert evaluate(copied, *batches, "--out", out) == 130
    assert len((out / "results.partial.jsonl").read_text().splitlines()) == 3
    monkeypatch.setattr(evaluate_geneval2, "_ask", lambda *given: asked.append(given[1]) or ask(*given))
    assert evaluate(copied, *batches, "--out", out) == 0
    assert [one.name for (one,) in asked] == ["00000_0.png", "00000_1.png", "1.png"]
    assert (out / "results.jsonl").read_text() == (tmp_path / "whole" / "results.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"vqa_list": []}, "vqa_list"),
        ({"vqa_list": [["Is it?"]]}, "vqa_list[0]"),
        ({"vqa_list": [["Is it?", "Yes"], ["How many?", "."]], "skills": ["a", "b"]}, "vqa_list[1][1]"),
        ({"skills": ["object"]}, "skills"),
        ({"atom_count": "three"}, "atom_count"),
        ({"prompt": 5}, "prompt"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, change, field):
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | change) + "\n")
    with pytest.raises(InputError) as refused:
        read_data(file)
    assert (refused.value.line, refused.value.field) == (2, field)


@pytest.mark.parametrize(
    ("written", "says"), [("[]", "is no JSON object"), ('{"a": 3}', "3 is no image"), ("{", "not valid JSON")]
)
def test_a_map_that_is_none_is_named(copied, written, says, capsys):
    (copied / "map.json").write_text(written)
    assert evaluate(copied, "map.json") == 2
    assert says in capsys.readouterr().err


def test_what_belongs_together_is_asked_for(drawn, capsys):
    assert main(["evaluate", "geneval2", "--images", str(drawn / "images")]) == 2
    assert "--data with --images" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "geneval2", "--help"])
    assert not ended.value.code
    assert "Qwen/Qwen3-VL-8B-Instruct" in capsys.readouterr().out


def test_atoms_are_counted_where_the_data_do_not_say():
    """GenEval 2 asks whether there is just one of a thing that its prompt names with an article, which is no atom."""
    asked = [Question("How many cows are in the image?", "one"), Question("Is it red?"), Question("How many?", "two")]
    assert num_atoms(asked) == 2
    row = read_line(ROWS[1] | {"atom_count": None})
    assert row.atom_count == 2
    assert result_line(row, "a.png", [0.5, 0.25, 1.0])["correct"] is False


def read_line(said):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.jsonl"
        file.write_text(json.dumps(said))
        return read_data(file)[0]


@pytest.mark.slow
def test_a_finished_search_is_scored_as_its_images_are(drawn, tmp_path, capsys):
    run = tmp_path / "run"
    search = ["search", "--run", run, "--prompts", drawn / "data.jsonl", "--no-closed-vocabulary", "--quiet"]
    search += ["--search.strategy", "noise", "--search.width", "1", "--search.depth", "1", "--judge.kind", "none"]
    search += ["--tools.verifier.kinds", "rewards", "--tools.generator.flux.num-steps", "2", "--num-threads", "1"]
    assert main([str(one) for one in search]) == 0
    assert main(["evaluate", "geneval2", "--run", str(run), *VLM]) == 0
    of_run = json.loads((run / "evaluation" / "geneval2" / "summary.json").read_text())
    shown = tmp_path / "shown"
    shutil.copytree(run / "evaluation" / "free", shown)
    assert evaluate(drawn, shown, "--out", tmp_path / "scored") == 0
    assert json.loads((tmp_path / "scored" / "summary.json").read_text()) == of_run
    capsys.readouterr()
    assert main(["evaluate", "geneval2", "--run", str(run), "--data", str(drawn / "data.jsonl"), *VLM]) == 2
