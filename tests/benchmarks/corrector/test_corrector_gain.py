"""The corrector's benchmark: what it takes for wrong, what it tells, and that doing nothing is measured as nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.corrector.corrector_gain import (
    Arguments,
    as_data,
    asked_for,
    cell_of,
    measure,
    print_figures,
    short_names,
    text_alone,
)
from benchmarks.corrector.underspecified import open_prompts
from benchmarks.corrector.wrong_images import WrongImage, reflections_of_others, requirements_met, say
from benchmarks.dataset.referee import names_one_of
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux
from inference.flux.corrector import CorrectorDescription, save_corrector
from inference.flux.generator import FluxGenerator
from inference.judges.intervals import Interval, mean_over_tags
from inference.judges.segmentation_judge import SegmentationJudge
from inference.prompt_grammar import parse_prompt
from microworld.family import micro_flux, micro_segmentation_judge
from microworld.scenes import evaluation_split
from microworld.scenes.evaluation_split import evaluation_seed
from microworld.scenes.instructions import Edit, Operation
from schemas.records import DetectedObject
from tests.support.needed_edits import needed

GENERATOR = micro_flux(num_steps=1, batch_size=16)


@pytest.mark.parametrize(
    ("text", "objects", "told"),
    [
        ("a photo of two stars", [("red", "star")], "Add one more star so that there are two."),
        ("a photo of a red star", [("blue", "star")], "Replace the blue star by a red star."),
        ("a photo of a red star", [("mixed", "star")], "Make the star red."),
        ("a photo of a star and a ring", [("red", "star"), ("red", "malformed")], "Add a ring."),
        ("a photo of a star above a ring", [("red", "star"), ("red", "ring")], "Move the star above the ring."),
    ],
)
def test_the_right_reflection_says_what_the_judge_saw_missing(text, objects, told):
    assert say(needed(text, *objects), 40) == told


def test_a_figure_of_one_prompt_is_json_and_has_no_interval():
    found = as_data(mean_over_tags([1.0], ["colors"], ["one text"]))
    assert json.loads(json.dumps(found, allow_nan=False)) == {"value": 1.0, "low": None, "high": None}
    assert cell_of(found) == "1.000"
    assert cell_of(as_data(Interval(0.25, 0.1, 0.4)), "+.3f") == "+0.250 [+0.100, +0.400]"
    assert cell_of(None) == ""


def test_a_reflection_ends_with_a_whole_sentence():
    edits = needed("a photo of a yellow star and a green ring", ("yellow", "ring"), ("green", "star"))
    first, both = say(edits, 5), say(edits, 40)
    assert first == "Replace the green star by a yellow star."
    assert both == f"{first} Replace the yellow ring by a green ring."


def test_a_wrong_reflection_names_nothing_that_its_image_needs():
    texts = ["a photo of two stars", "a photo of three rings", "a photo of a red star", "a photo of a heart"]
    images = [
        WrongImage(parse_prompt(text), 0, np.zeros((32, 32, 3), np.uint8), needed(text), say(needed(text), 40))
        for text in texts
    ]
    told = reflections_of_others(images)
    assert told == reflections_of_others(images)
    for image, text in zip(images, told, strict=True):
        assert text in {other.reflection for other in images}
        assert not names_one_of(text, image.needed)


def test_of_each_requirement_it_is_said_whether_the_image_meets_it():
    prompt = parse_prompt("a photo of a red star left of a blue ring")
    left, right = (2.0, 8.0, 12.0, 18.0), (20.0, 8.0, 30.0, 18.0)
    star, ring = DetectedObject("star", 0.9, left, "red"), DetectedObject("ring", 0.9, right, "red")
    assert all(requirements_met(prompt, [star, replace(ring, color="blue")], 0.5))
    met = requirements_met(prompt, [star, ring], 0.5)
    assert met.count(False) == 1  # the ring's colour
    assert sum(requirements_met(prompt, [star, replace(ring, score=0.4)], 0.5)) < len(met) - 1


def test_an_image_is_counted_under_the_one_operation_that_it_needs():
    add, remove = Edit(Operation.ADD, "star"), Edit(Operation.REMOVE, "ring")
    assert asked_for([add]) == asked_for([add, add]) == "add"
    assert asked_for([add, remove]) == "several"


def test_correctors_are_called_by_what_tells_their_folders_apart():
    assert short_names(["runs/joint/corrector", "runs/cached/corrector"]) == ["joint", "cached"]
    assert short_names(["runs/joint/corrector"]) == ["joint"]
    assert short_names(["a"]) == ["a"]


@pytest.fixture(scope="module")
def generator():
    return FluxGenerator(GENERATOR)


def test_text_alone_is_the_generator_with_t5_reading_the_reflection_and_clip_the_prompt(generator):
    texts, seeds, unseen = (
        ["a photo of a star", "a photo of two red circles"],
        [3, 4],
        [np.zeros((32, 32, 3), np.uint8)],
    )
    untold = text_alone(generator)(unseen * 2, texts, ["", ""], seeds)
    for ours, its in zip(untold, generator.generate(texts, seeds), strict=True):
        assert (ours == its).all()
    told = text_alone(generator)(unseen, texts[:1], ["Add a star."], seeds[:1])[0]
    drawn = generator.pipeline(
        prompt=[texts[0]],
        prompt_2=["a photo of a star [Reflexion] Add a star."],
        num_inference_steps=generator.config.num_steps,
        guidance_scale=generator.config.guidance,
        height=32,
        width=32,
        max_sequence_length=generator.text_length("a photo of a star [Reflexion] Add a star."),
        generator=torch.Generator("cpu").manual_seed(seeds[0]),
        output_type="np",
    ).images[0]
    assert np.abs(told.astype(float) - drawn * 255).max() <= 1
    assert (told != untold[0]).any()


def test_open_prompts_are_met_by_their_image_and_both_wishes_are_not():
    judge = SegmentationJudge(micro_segmentation_judge())
    prompts = open_prompts(FluxGenerator(micro_flux(batch_size=16)), judge, "dev", 2)
    assert {p.kind for p in prompts} == {"color", "color of one of two", "place"}
    for prompt in prompts:
        (meets,) = judge.judge([prompt.image], [parse_prompt(prompt.text)])
        assert meets.correct
        assert not any(v.correct for v in judge.judge([prompt.image] * 2, prompt.wanted))
        assert prompt.reflections[0] != prompt.reflections[1]


def test_an_untrained_corrector_is_measured_against_drawing_again_with_the_same_seeds(generator, tmp_path, monkeypatch):
    prompts = evaluation_split.dev_prompts()[90:240:15]
    monkeypatch.setitem(evaluation_split.SPLITS, "micro-dev", lambda: prompts)
    names = []
    for attention in ("joint", "cached"):
        torch.manual_seed(0)
        config = ConditionConfig(attention, rank=2, alpha=2.0)
        folder = tmp_path / attention / "corrector"
        folder.mkdir(parents=True)
        model = ConditionedFlux(generator.pipeline.transformer, config)
        save_corrector(folder, model, CorrectorDescription(config, 32, "micro/flux"))
        names.append(str(folder))
    gain = measure(Arguments(tuple(names), per_prompt=1, tries=2, open_prompts=1, reflector="", generator=GENERATOR))
    figures = gain.figures()
    assert figures["split"] == "dev"
    assert 0 < figures["wrong_images"] <= len(prompts)
    assert set(figures["ways"]) >= {"again", "text alone", "joint: right", "cached: empty", "cached: wrong"}
    for way in figures["ways"].values():
        assert 0 <= way["requirements_mended"]["value"] <= 1
        assert way["requirements_kept"]["value"] is None  # one step draws nothing that could be kept
    print_figures(figures)
    assert figures["ways"]["again"]["against_again"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert set(figures["differences"]) >= {"joint: right - joint: empty", "cached: right - joint: right"}
    again = gain.drawn["", "again"]
    for row, wrong in enumerate(gain.wrong):
        seeds = wrong.seeds(2)
        assert evaluation_seed(wrong.prompt.prompt_id) not in seeds
        (one,) = gain.generator.generate([wrong.prompt.text], seeds[1:])
        assert np.abs(one.astype(int) - again[2 * row + 1]).max() <= 1
