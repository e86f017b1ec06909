"""Scores by the papers' criteria: what is asked, how answers are read, and that the shipped VLM ranks by them."""

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.prompt_grammar import parse_prompt, record_of
from inference.verifier import VerifierKind
from inference.vlm.criteria import ANY_PROMPT, ANY_RUBRIC, CRITERIA, RUBRICS
from inference.vlm.prompted_verifier import (
    PromptedVerifier,
    PromptedVerifierConfig,
    answer_schema,
    criteria_of,
    read_judgements,
    read_points,
    read_reasons,
)
from inference.vlm.prompts import load_prompt
from microworld.family import micro_vlm
from microworld.scenes.captions import caption_from_clauses, caption_of_record, sample_scene
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import render
from recipes import micro
from schemas.errors import InputError
from schemas.records import Cost

NAMES = CRITERIA["colors"]


def answer(value, finished=True):
    return ChatAnswer(value if isinstance(value, str) else json.dumps(value), finished, 1, 1)


def judged(overall, *criteria):
    return {
        n: {"score": s, "explanation": "x"}
        for n, s in zip((*NAMES, "overall_score"), (*criteria, overall), strict=True)
    }


def test_each_tag_has_its_own_criteria():
    assert criteria_of(record_of("a photo of a red star")) == CRITERIA["colors"]
    assert criteria_of(record_of("a photo of two stars")) == CRITERIA["counting"]
    assert criteria_of(record_of("a photo of a star left of a ring")) == CRITERIA["position"]
    assert criteria_of(record_of("Lighthouse in a storm, oil on canvas")) == ANY_PROMPT


@pytest.mark.parametrize(
    ("said", "points"),
    [
        (judged(8, 10, 6, 8), 8.08),  # the criteria's mean, 8, only parts equal ones
        (judged(10, 10, 10, 10), 10.0),
        (judged(0, 0, 0, 0), 0.0),
        ({"overall_score": 7}, 7.0),  # a bare number, criteria left out
        ({"overall_score": 99}, 10.0),
        ('{"color_fidelity": {"score": 3, "explanation": "x"}, "overall_score": {"score": 4, "expl', 4.0),  # cut off
        ("I would give it an 8.", 0.0),
        ('{"overall_score": {"explanation": "no score"}}', 0.0),
        ("[1, 2]", 0.0),
    ],
)
def test_answers_are_read_as_far_as_they_can_be(said, points):
    assert read_points(answer(said), NAMES) == pytest.approx(points)


class Answers:
    """Gives answers in turn, and keeps what it was asked."""

    def __init__(self, *said):
        self.said, self.asked = list(said), []

    def answer(self, requests):
        self.asked += requests
        return [answer(self.said.pop(0)) for _ in requests]


def test_scores_are_log_odds_that_order_as_the_points_do():
    vlm = Answers(judged(4, 5, 5, 5), judged(8, 1, 1, 1), judged(8, 9, 9, 9), "nothing")
    verifier = PromptedVerifier(cast(Any, vlm), load_prompt("micro/judge"))
    scores = verifier.score([np.zeros((8, 8, 3), np.uint8)] * 4, ["a photo of a red star"] * 4)
    assert scores.dtype == np.float32
    assert scores[3] < scores[0] < 0 < scores[1] < scores[2]
    assert scores[3] == pytest.approx(np.log(0.5 / 10.5))
    request = vlm.asked[0]
    assert "color_fidelity, contrast_effectiveness, multi_object_consistency, overall_score" in request.text
    assert json.loads(request.json_schema)["required"] == [*NAMES, "overall_score"]


def images(*greys):
    return [np.full((8, 8, 3), grey, np.uint8) for grey in greys]


class ByGrey:
    """Marks every image that it is shown by its grey, in order."""

    def __init__(self):
        self.asked = []

    def answer(self, requests):
        self.asked += requests
        return [answer(self.said(request.images)) for request in requests]

    def said(self, shown):
        marks = [judged(int(image.mean()), 5, 5, 5) for image in shown]
        return marks[0] if len(shown) == 1 else {"images": marks}


def points(opinions):
    """0 to 10, of log-odds."""
    odds = np.exp([one.score for one in opinions])
    return ((10.5 * odds - 0.5) / (1 + odds)).round().tolist()


def test_every_criterion_is_asked_with_what_it_means():
    assert {name for names in CRITERIA.values() for name in names} == {n for r in RUBRICS.values() for n in r}
    for rubric in (*RUBRICS.values(), ANY_RUBRIC):
        assert len(rubric) == 3
        assert all("0: " in asked and "10: " in asked for asked in rubric.values())
    vlm = ByGrey()
    PromptedVerifier(cast(Any, vlm), load_prompt("judge")).verify(images(3), ["a photo of a red star"])
    for name, asked in RUBRICS["colors"].items():
        assert f"- {name}: {asked}\n" in vlm.asked[0].text
    assert "{" not in vlm.asked[0].text


def test_images_of_one_prompt_are_shown_together_and_each_gets_its_own_score():
    vlm = ByGrey()
    verifier = PromptedVerifier(cast(Any, vlm), load_prompt("judge"), 2)
    red, blue = "a photo of a red star", "a photo of a blue star"
    opinions = verifier.verify(images(3, 8, 5, 1, 9), [red, red, red, blue, blue])
    assert points(opinions) == [3, 8, 5, 1, 9]
    assert [len(request.images) for request in vlm.asked] == [2, 1, 2]
    assert "You see 2 images" in vlm.asked[0].text
    assert "You see" not in vlm.asked[1].text
    assert sum((one.cost for one in opinions), Cost()) == Cost(
        verifier_calls=3, vlm_prompt_tokens=3, vlm_completion_tokens=3
    )
    schema = json.loads(vlm.asked[0].json_schema)
    assert (schema["properties"]["images"]["minItems"], schema["properties"]["images"]["maxItems"]) == (2, 2)


def test_no_image_is_known_by_its_place():
    """A filter always names the good image of a pair first."""
    vlm = ByGrey()
    verifier = PromptedVerifier(cast(Any, vlm), load_prompt("judge"), 2)
    first = []
    for grey in range(1, 9):
        opinions = verifier.verify(images(grey + 1, grey), ["a photo of a red star"] * 2)
        assert points(opinions) == [grey + 1, grey]
        first.append(int(vlm.asked[-1].images[0].mean()) - grey)
    assert set(first) == {0, 1}


@pytest.mark.parametrize("said", ["too few", "cut off", "one object", "no score"])
def test_an_answer_that_has_not_a_score_for_each_image_has_them_asked_about_alone(said):
    class Short(ByGrey):
        def said(self, shown):
            one = judged(int(shown[0].mean()), 5, 5, 5)
            if len(shown) == 1:
                return one
            return {
                "too few": {"images": [one]},
                "cut off": json.dumps({"images": [one, one]})[:-30],
                "one object": one,
                "no score": {"images": [one, {"color_fidelity": 3}]},
            }[said]

    vlm = Short()
    opinions = PromptedVerifier(cast(Any, vlm), load_prompt("judge"), 2).verify(images(3, 8), ["a red star"] * 2)
    assert points(opinions) == [3, 8]
    assert [len(request.images) for request in vlm.asked] == [2, 1, 1]
    assert [one.cost.verifier_calls for one in opinions] == [2, 1]


def test_a_bare_list_is_read_too():
    said = [judged(3, 5, 5, 5), judged(8, 5, 5, 5)]
    found = read_judgements(answer(said), NAMES, 2)
    assert found is not None
    assert [round(points) for points, _ in found] == [3, 8]


def test_the_reasons_are_one_line_by_criterion():
    said: dict[str, Any] = judged(4, 2, 9, 10)
    said["color_fidelity"]["explanation"] = "The star is\n blue"
    said["contrast_effectiveness"]["explanation"] = " "
    said["multi_object_consistency"] = 7  # a bare number has no reason
    told = read_reasons(answer(said), NAMES)
    assert told == "color fidelity 2 of 10: The star is blue. overall score 4 of 10: x."
    assert read_reasons(answer("cut {"), NAMES) == ""
    assert read_reasons(answer("[1]"), NAMES) == ""


def test_more_images_than_the_vlm_takes_are_refused_before_it_is_loaded():
    with pytest.raises(InputError, match="max-images"):
        PromptedVerifierConfig(micro_vlm(), "judge", images_per_request=3).open()
    with pytest.raises(InputError, match="0 images a request"):
        PromptedVerifierConfig(micro_vlm(), "judge", images_per_request=0).open()


def test_the_schema_asks_for_each_criterion_with_a_score_and_a_reason():
    schema = json.loads(answer_schema(NAMES))
    assert list(schema["properties"]) == [*NAMES, "overall_score"]
    assert schema["properties"]["overall_score"]["required"] == ["score", "explanation"]


def test_the_shipped_vlm_prefers_right_scenes_to_wrong_ones():
    config = replace(micro.verifier(), kinds=("prompted",)).only_what_is_used(micro_vlm(batch_size=32))
    verifier, rng = config.open(), np.random.default_rng(4)
    texts, right, wrong = [], [], []
    for text in ("a photo of a red star", "a photo of two hearts", "a photo of a cross and a ring"):
        caption = caption_of_record(parse_prompt(text))
        for _ in range(5):
            scene = sample_scene(rng, caption_from_clauses(caption.tag, caption.clauses))
            texts.append(text)
            right.append(render([scene]).images[0])
            wrong.append(render([wrong_scene(rng, caption, scene)[1]]).images[0])
    scores = verifier.score([*right, *wrong], texts * 2)
    assert np.mean(scores[: len(right)] > scores[len(right) :]) >= 0.8


def test_verifiers_that_are_averaged_speak_of_log_odds():
    """The trained verifier's reward is normalised; in a search it counts in its own unit, beside the VLM's log-odds."""
    from inference.model_store import resolve_model
    from inference.vlm.trained_verifier import TrainedVerifier, read_description

    vlm = micro_vlm(batch_size=8)
    images = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(3)]
    texts = ["a photo of a red star"] * 3
    chosen: list[tuple[VerifierKind, ...]] = [("vlm",), ("trained",), ("vlm", "trained")]
    scores = {
        kinds: replace(micro.verifier(), kinds=kinds).only_what_is_used(vlm).open().score(images, texts)
        for kinds in chosen
    }
    normalised = TrainedVerifier("micro/verifier", vlm).score(images, texts)
    std = read_description(resolve_model("micro/verifier")).std
    assert scores["trained",] == pytest.approx(normalised * std, abs=1e-4)
    assert scores["vlm", "trained"] == pytest.approx((scores["vlm",] + scores["trained",]) / 2, abs=1e-4)
