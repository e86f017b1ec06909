"""Who says whether an image fits a description: a VLM by its words, or a CLIP (a real one at tiny size)."""

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.judges.description_judge import (
    ClipDescriptionJudge,
    DescriptionJudgeConfig,
    VlmDescriptionJudge,
    read_answer,
)
from inference.rewards.clip_reward import ClipRewardConfig
from microworld.family import micro_clip
from schemas.errors import InputError


@pytest.mark.parametrize("text", ["1", "1.", " **1**", "Yes", "yes, it does", "<think>0?</think>1", "True", '"1"'])
def test_answers_that_say_yes(text):
    assert read_answer(text) is True


@pytest.mark.parametrize("text", ["0", "0.", "No.", "false", "`0`", "0 - it does not"])
def test_answers_that_say_no(text):
    assert read_answer(text) is False


@pytest.mark.parametrize(
    "text", ["", "10", "The image shows 1 lamp", "Not sure", "I cannot tell", "<think>1", "nothing", "2"]
)
def test_answers_that_say_neither(text):
    assert read_answer(text) is None


class Echo:
    """Says what an image's first pixel has for the description."""

    def __init__(self):
        self.asked = []

    def answer(self, requests):
        self.asked += [request.text for request in requests]
        said = {0: "1", 1: "0", 2: "perhaps"}
        return [
            ChatAnswer(said[int(r.images[0][0, 0, ["bright", "dark"].index(r.text.split("|")[1])])], True, 1, 1)
            for r in requests
        ]

    def first_word_probabilities(self, requests, words):
        raise AssertionError("not asked")


def test_a_vlm_is_asked_about_each_description_by_itself(tmp_path):
    (tmp_path / "mine.txt").write_text("Is it |{description}|?")
    vlm = Echo()
    images = [np.full((4, 4, 3), color, np.uint8) for color in ([0, 1, 0], [1, 0, 0], [0, 0, 0], [2, 1, 0])]
    judge = VlmDescriptionJudge(vlm, str(tmp_path / "mine.txt"))
    found = judge.judge(images, [("bright", "dark")] * 4)
    assert [one.fits for one in found] == [(True, False), (False, True), (True, True), (None, False)]
    assert found[3].said == ("perhaps", "0")
    assert vlm.asked[:2] == ["Is it |bright|?", "Is it |dark|?"]


def test_words_without_a_place_for_the_description_are_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "mine.txt").write_text("Is it so?")
    with pytest.raises(InputError, match="description"):
        DescriptionJudgeConfig(prompt=str(tmp_path / "mine.txt")).only_what_is_used()
    with pytest.raises(InputError, match="no prompt template"):
        DescriptionJudgeConfig(prompt=str(tmp_path / "gone.txt")).only_what_is_used()
    clip = DescriptionJudgeConfig("clip", clip=ClipRewardConfig("some/clip"), prompt=str(tmp_path / "gone.txt"))
    assert (clip.only_what_is_used().vlm, clip.label) == (None, "some/clip")


def test_a_clip_gives_an_image_to_the_description_that_it_is_more_like():
    judge = DescriptionJudgeConfig("clip", clip=micro_clip("clip")).open()
    assert isinstance(judge, ClipDescriptionJudge)
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (3, 32, 32, 3), np.uint8))
    both = ("a photo of a red star", "a photo of a blue ring")
    scores = [micro_clip("clip").open().score(images, [text] * 3) for text in both]
    found = judge.judge([*images, images[0]], [both] * 3 + [(both[0], both[0])])
    assert [one.fits for one in found[:3]] == [(bool(a > b), bool(b > a)) for a, b in zip(*scores, strict=True)]
    assert found[3].fits == (False, False)
