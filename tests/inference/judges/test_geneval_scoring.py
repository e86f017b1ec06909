"""Thresholds by tag, and GenEval's overall score."""

import pytest

from inference.judges.geneval_scoring import ScoreThresholds, judge_objects, score_by_tag
from inference.prompt_grammar import parse_prompt
from schemas.records import DetectedObject


def star(score: float, x: float = 0.0) -> DetectedObject:
    return DetectedObject("star", score, (x, 0.0, x + 8.0, 8.0), "red")


def test_a_score_must_be_strictly_above_the_threshold():
    prompt = parse_prompt("a photo of a star")
    assert not judge_objects(prompt, [star(0.3)], ScoreThresholds()).correct
    assert judge_objects(prompt, [star(0.31)], ScoreThresholds()).correct


def test_counting_has_a_threshold_of_its_own():
    prompt = parse_prompt("a photo of two stars")
    assert not judge_objects(prompt, [star(0.95), star(0.8, 16)], ScoreThresholds()).correct
    assert judge_objects(prompt, [star(0.95), star(0.92, 16)], ScoreThresholds()).correct
    third = [star(0.95), star(0.92, 16), star(0.5, 8)]  # too uncertain to be one too many
    assert judge_objects(prompt, third, ScoreThresholds()).correct
    assert not judge_objects(prompt, third, ScoreThresholds(counting=0.4)).correct


def test_malformed_objects_are_neither_missing_ones_nor_too_many():
    malformed = DetectedObject("malformed", 0.99, (16.0, 16.0, 24.0, 24.0), "red")
    assert judge_objects(parse_prompt("a photo of a star"), [star(0.9), malformed], ScoreThresholds()).correct
    verdict = judge_objects(parse_prompt("a photo of two stars"), [star(0.95), malformed], ScoreThresholds())
    assert verdict.reasons == ("expected star>=2, found 1",)


def test_the_overall_score_is_the_mean_over_tags_not_over_images():
    scores = score_by_tag(["colors"] * 3 + ["position"], [True, True, True, False])
    assert scores == {"colors": 1.0, "position": 0.0, "overall": 0.5}
    assert score_by_tag([], []) == {"overall": 0.0}
    with pytest.raises(ValueError, match="zip"):
        score_by_tag(["colors"], [])
