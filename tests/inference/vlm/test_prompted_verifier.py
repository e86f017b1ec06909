"""Scores by the papers' criteria: what is asked, how answers are read, and that the shipped VLM ranks by them."""

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.prompt_grammar import parse_prompt, record_of
from inference.verifier import VerifierKind
from inference.vlm.criteria import ANY_PROMPT, CRITERIA
from inference.vlm.prompted_verifier import PromptedVerifier, answer_schema, criteria_of, read_points
from inference.vlm.prompts import load_prompt
from microworld.family import micro_vlm
from microworld.scenes.captions import caption_from_clauses, caption_of_record, sample_scene
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import render
from recipes import micro

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
