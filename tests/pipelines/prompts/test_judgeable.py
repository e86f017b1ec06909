"""What a judge can judge: told before anything is drawn, in one way for searches, evaluations and harvests."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands.main import main
from commands.runs import open_run
from inference.judges.judge import JudgeConfig, judge_images
from inference.judges.known_words import KnownWords
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.judges.questions_judge import QuestionsJudge
from inference.prompt_grammar import parse_prompt, record_of
from microworld.family import micro_judge
from microworld.scenes.world import COLORS, SHAPES
from pipelines.evaluation import evaluate, geneval_metadata
from pipelines.prompts.judgeable import Asked, count_unjudged, why_not_judged
from pipelines.prompts.overlap import geneval_prompts
from pipelines.search_job import SearchJobConfig, asked_prompts, num_unjudged
from recipes import catalogue
from schemas.errors import InputError, MissingWeightsError
from schemas.images import encode_png
from schemas.records import ObjectClause, PromptRecord, PromptRow
from tests.support.tiny_judge import save_tiny_clip, save_tiny_mask2former


def asking_for(name: str) -> PromptRecord:
    return PromptRecord("p", f"a photo of a {name}", "rule", "single_object", (ObjectClause(name),))


CATS = KnownWords(frozenset({"cat", "car"}), frozenset({"red"}))
KINDS = [
    (parse_prompt("a photo of a red cat"), None, None),
    (parse_prompt("a photo of a cap"), "unknown class 'cap'; did you mean", "include[0].class"),
    (asking_for("teal cat"), "unknown class 'teal cat'", "include[0].class"),
    (parse_prompt("a photo of a car and a green cat"), "unknown color 'green'", "include[1].color"),
    (record_of("At dawn the harbour wakes"), "nothing is said of what must be seen", "include"),
    (
        PromptRecord("p", "no dog", "rule", "single_object", (ObjectClause("cat"),), (ObjectClause("dog"),)),
        "unknown class 'dog'",
        "exclude[0].class",
    ),
]


@pytest.mark.parametrize(("prompt", "says", "field"), KINDS)
def test_each_word_is_looked_up_and_the_first_unknown_one_is_named(prompt, says, field):
    why = why_not_judged(prompt, CATS)
    if says is None:
        assert why is None
        return
    assert why is not None
    assert says in why.problem
    assert why.field == field


def test_whoever_knows_all_words_can_judge_all_that_says_what_it_wants():
    able = [why_not_judged(prompt, KnownWords()) is None for prompt, *_ in KINDS]
    assert able == [True, True, True, True, False, True]


def test_the_refusal_counts_shows_three_and_says_where_the_first_stands():
    asked = [Asked(prompt, "prompts.jsonl", line) for line, (prompt, *_) in enumerate(KINDS, 1)]
    with pytest.raises(InputError) as refused:
        count_unjudged(asked, CATS, "the judge", "refuse")
    error = refused.value
    assert "5 of 6 prompts cannot be judged by the judge: 'a photo of a cap' (prompts.jsonl:2): unk" in error.problem
    assert error.problem.count("prompts.jsonl:") == 3
    assert error.problem.endswith("; and 2 more")
    assert (error.file, error.line, error.field) == ("prompts.jsonl", 2, "include[0].class")
    assert "one of the 2 known: car, cat" in str(error.expected)
    assert "--unjudged count" in str(error.expected)
    assert count_unjudged(asked, CATS, "the judge", "count") == 5
    assert count_unjudged(asked[:1], CATS, "the judge", "refuse") == 0


def test_a_judge_s_words_are_known_before_it_is_loaded_and_are_the_loaded_one_s(tmp_path):
    detector, clip = save_tiny_mask2former(tmp_path / "detector"), save_tiny_clip(tmp_path / "clip")
    full = Mask2FormerJudgeConfig(str(detector), str(clip))
    for config in (JudgeConfig("mask2former", full), micro_judge()):
        judge = config.open()
        assert not isinstance(judge, QuestionsJudge)
        assert config.known_words() == KnownWords(judge.known_classes, judge.known_colors)
    assert micro_judge().known_words() == KnownWords(frozenset(SHAPES), frozenset(COLORS))
    (detector / "model.safetensors").unlink()
    assert "computer mouse" in (JudgeConfig("mask2former", full).known_words().classes or ())
    with pytest.raises(MissingWeightsError, match="mask2former-swin-small"):
        JudgeConfig().known_words()


def test_a_judge_refuses_what_it_cannot_see_whoever_asks():
    judge = micro_judge().open()
    with pytest.raises(InputError, match="no class 'dragon'"):
        judge_images(judge, [np.zeros((32, 32, 3), np.uint8)], [asking_for("dragon")])


COCO = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush""".replace("\n", " ").split(", ")


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> SearchJobConfig:
    """Production's search, its judge's folder holding the labels of COCO and nothing else."""
    folder = tmp_path_factory.mktemp("coco")
    assert len(COCO) == 80
    (folder / "config.json").write_text(json.dumps({"id2label": {str(i): name for i, name in enumerate(COCO)}}))
    job = catalogue.load("flux", "search")
    judge = replace(job.judge.judge, mask2former=replace(job.judge.judge.mask2former, detector=str(folder)))
    return replace(job, judge=replace(job.judge, judge=judge))


def test_production_s_judge_knows_all_of_geneval_s_prompts_and_few_composed_of_everyday_words(flux, tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(geneval_metadata(PromptRow(p))) + "\n" for p in geneval_prompts()))
    geneval = replace(flux, prompts=str(file))
    assert num_unjudged(geneval, asked_prompts(geneval)) == 0
    composed = replace(flux, prompts="composed", num_prompts=300)
    asked = asked_prompts(composed)
    with pytest.raises(InputError, match=r"2\d\d of 300 prompts cannot be judged by .*coco.*unknown class"):
        num_unjudged(composed, asked)
    assert num_unjudged(replace(composed, unjudged="count"), asked) > 200


SEARCH = ["--search.strategy", "noise", "--search.width", "1", "--search.depth", "1", "--tools.verifier.kinds", "vlm"]
SEARCH += ["--num-threads", "1", "--quiet", "--no-closed-vocabulary", "--preset", "micro-paper"]
SAID = [
    {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"},
    {"tag": "single_object", "include": [{"class": "dragon", "count": 1}], "prompt": "a photo of a dragon"},
    {"prompt": "At dawn the harbour wakes"},
]


@pytest.fixture
def prompts(tmp_path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in SAID))
    return file


def test_a_search_with_prompts_that_cannot_be_judged_is_not_begun(prompts, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["search", "--run", str(run), "--prompts", str(prompts), *SEARCH]) == 2
    said = capsys.readouterr().err
    assert "2 of 3 prompts cannot be judged by micro/judge: 'a photo of a dragon'" in said
    assert f"{prompts}:2: " in said
    assert f"'At dawn the harbour wakes' ({prompts}:3): nothing is said of what must be seen" in said
    assert not run.exists()


@pytest.mark.parametrize("kind", ["judge", "rules"])
def test_nobody_chooses_by_what_cannot_be_checked(prompts, kind, tmp_path, capsys):
    asked = ["--prompts", str(prompts), *SEARCH, "--unjudged", "count", "--also-score", kind]
    assert main(["search", "--run", str(tmp_path / "run"), *asked]) == 2
    number = {"judge": 2, "rules": 1}[kind]
    assert f"{number} of 3 prompts cannot be judged by verifier '{kind}'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_search_that_goes_on_with_them_counts_them_apart_and_so_does_its_harvest(prompts, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["--prompts", str(prompts), *SEARCH, "--images-per-prompt", "2"]
    arguments += ["--search.strategy", "reflection", "--search.depth", "2", "--unjudged", "count"]
    assert main(["search", "--run", str(run), *arguments]) == 0
    assert "4 more searches are not judged" in capsys.readouterr().out
    folder, config = open_run(str(run))
    assert isinstance(config, SearchJobConfig)
    assert folder.info.intake["rule"]["not_judged"] == 2
    found = evaluate(folder, config)
    assert (len(found.searches), found.num_not_judged, found.num_unfinished) == (2, 4, 0)
    assert found.cost.generations == 12
    assert found.cost.detector_calls == 4  # the judge looked at what it can judge alone
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert (summary["num_searches"], summary["num_not_judged"]) == (2, 4)
    lines = [json.loads(line) for line in (run / "evaluation" / "results.jsonl").read_text().splitlines()]
    assert {line["prompt"] for line in lines} == {"a photo of a star"}
    assert len(list((run / "evaluation" / "geneval").rglob("*.png"))) == 2
    assert len(list((run / "evaluation" / "not_judged").rglob("*.png"))) == 4
    page = (run / "evaluation" / "index.html").read_text()
    assert page.count(": not judged</h3>") == 4
    assert "4 not judged" in page
    assert main(["search", "--run", str(run), *arguments[:-2]]) == 0  # goes on as it was begun
    assert main(["harvest", "--run", str(run), "--out", str(tmp_path / "harvest"), "--quiet"]) == 0
    assert open_run(str(tmp_path / "harvest"))[0].info.intake["rule"]["not_judged"] == 2


def folder_of_images(root: Path) -> Path:
    for number, said in enumerate(SAID[:2]):
        samples = root / f"{number:05}" / "samples"
        samples.mkdir(parents=True)
        (samples / "0000.png").write_bytes(encode_png(np.full((32, 32, 3), 200, np.uint8)))
        (samples.parent / "metadata.jsonl").write_text(json.dumps(said) + "\n")
    return root


def test_a_folder_of_images_is_refused_or_the_rest_of_it_is_judged(tmp_path, capsys):
    images = folder_of_images(tmp_path / "images")
    command = ["evaluate", "geneval", "--images", str(images)]
    assert main(command) == 2
    assert "1 of 2 prompts cannot be judged by micro/judge: 'a photo of a dragon'" in capsys.readouterr().err
    assert not (images / "results.jsonl").exists()
    assert main([*command, "--unjudged", "count"]) == 0
    summary = json.loads((images / "summary.json").read_text())
    assert (summary["num_images"], summary["num_not_judged"]) == (1, 1)
    (line,) = (images / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["prompt"] == "a photo of a star"
    for path in (images / "00000").rglob("*.*"):
        path.unlink()
    (images / "00000" / "samples").rmdir()
    (images / "00000").rmdir()
    assert main([*command, "--unjudged", "count"]) == 2  # nothing is left to judge
    assert "1 of 1 prompts" in capsys.readouterr().err


def test_one_image_of_something_unknown_is_no_wrong_image(tmp_path, capsys):
    (tmp_path / "one.png").write_bytes(encode_png(np.full((32, 32, 3), 200, np.uint8)))
    assert main(["judge", "a photo of a cat", str(tmp_path / "one.png")], "inference") == 2
    said = capsys.readouterr().err
    assert "do not know 'cat'" in said
    assert "--unjudged" not in said
    assert main(["judge", "a photo of a dragon", str(tmp_path / "one.png")], "inference") == 2
    assert "do not know 'dragon'" in capsys.readouterr().err
