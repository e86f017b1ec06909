"""A VLM as critic: who is asked what, with which words, and what an answer that cannot be used leaves."""

from dataclasses import replace

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.reflection_text import reflection_of
from inference.vlm.critic import VlmCritic, VlmCriticConfig, keeps_words
from schemas.errors import InputError

IMAGES = [np.full((4, 4, 3), value, np.uint8) for value in (1, 2)]
MICRO = VlmCriticConfig(reflect="micro/reflect", refine="micro/refine", keep_words=True)
PROMPTS, CURRENT, SCORES = ["a star", "two rings"], ["a red star", "two rings, large"], [0.123, -4.0]


class Echo:
    """Answers with its name and what it was asked; the requests whose texts hold `cut` are cut off."""

    def __init__(self, name, cut=None):
        self.name, self.cut, self.asked = name, cut, []

    def answer(self, requests):
        self.asked += requests
        return [ChatAnswer(f"{self.name}: {r.text}", not (self.cut and self.cut in r.text), 10, 3) for r in requests]


@pytest.fixture
def templates(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def remarks(reflector, refiner, config, reflect=True, refine=True, explanations=()):
    critic = VlmCritic(reflector, refiner, config)
    return critic.remark(IMAGES, PROMPTS, CURRENT, SCORES, explanations=explanations, reflect=reflect, refine=refine)


def test_the_reflector_may_see_the_score_and_the_refiner_all_that_the_paper_lists(templates):
    reflect = templates("reflect.txt", "{prompt} | {current} | {score}")
    refine = templates("refine.txt", "{prompt} | {current} | {score} | {reflection}")
    reflector, refiner = Echo("A"), Echo("B")
    first, second = remarks(reflector, refiner, replace(MICRO, reflect=reflect, refine=refine))
    assert first.reflection == "A: a star | a red star | 0.12"
    assert second.prompt == f"B: two rings | two rings, large | -4.00 | {second.reflection}"
    assert [r.images[0].max() for r in reflector.asked] == [1, 2]
    assert (first.cost.vlm_calls, first.cost.vlm_prompt_tokens, first.cost.vlm_completion_tokens) == (2, 20, 6)


REASONS = ["color fidelity 2 of 10: The star is blue.", ""]


def asked_in_shipped_words(explanations):
    reflector, refiner = Echo("A"), Echo("B")
    remarks(reflector, refiner, VlmCriticConfig(), explanations=explanations)
    return reflector.asked, refiner.asked


def test_the_shipped_words_hand_the_verifiers_reasons_on_and_read_well_without_any():
    for explained, silent in asked_in_shipped_words(REASONS):
        assert REASONS[0] in explained.text
        assert "reasons" not in silent.text
        assert "{" not in explained.text + silent.text
    reflected, refined = asked_in_shipped_words(REASONS)
    heard = reflection_of(f"A: {reflected[1].text}").text
    assert f'A critic says of it: "{heard}"' in refined[1].text
    for requests in asked_in_shipped_words(()):
        assert not any("reasons" in request.text for request in requests)


def test_a_line_of_the_template_that_has_nothing_to_say_is_left_out(templates):
    refine = templates("refine.txt", "{prompt} {explanation}\nOf it: {reflection}\nRefine it.")
    refiner = Echo("B")
    remarks(Echo("A", cut="two rings"), refiner, replace(MICRO, refine=refine))
    assert refiner.asked[0].text.startswith("a star \nOf it: A: ")
    assert refiner.asked[1].text == "two rings \nRefine it."  # its reflection was cut off


def test_a_template_without_the_prompt_is_refused(templates):
    with pytest.raises(InputError, match=r"no \{prompt\}"):
        remarks(Echo("A"), Echo("B"), replace(MICRO, reflect=templates("reflect.txt", "What is wrong?")))


class Shy(Echo):
    """Says something at the second try; of the image of the first prompt only."""

    def answer(self, requests):
        answers = super().answer(requests)
        return [
            a if r.attempt and "star" in r.text else ChatAnswer('{"reflection": ""}', True, 10, 3)
            for r, a in zip(requests, answers, strict=True)
        ]


def test_an_empty_reflection_is_asked_for_again_and_one_that_finds_nothing_is_not():
    reflector = Shy("A")
    first, second = remarks(reflector, Echo("B"), replace(MICRO, max_attempts=3), refine=False)
    assert first.reflection.startswith("A: ")
    assert second.reflection == ""
    assert [request.attempt for request in reflector.asked] == [0, 0, 1, 1, 2]
    assert (first.cost.vlm_calls, second.cost.vlm_calls) == (2, 3)

    class Content(Echo):
        def answer(self, requests):
            super().answer(requests)
            return [ChatAnswer('{"reflection": "No correction needed."}', True, 10, 3) for _ in requests]

    content = Content("A")
    told = remarks(content, Echo("B"), replace(MICRO, max_attempts=3), refine=False)
    assert [one.reflection for one in told] == ["No correction needed."] * 2
    assert len(content.asked) == 2


def test_what_is_not_used_is_not_asked_for():
    reflector, refiner = Echo("A"), Echo("B")
    (only_reflected, _) = remarks(reflector, refiner, MICRO, refine=False)
    assert (only_reflected.prompt, only_reflected.cost.vlm_calls) == ("a red star", 1)
    assert not refiner.asked
    (only_refined, _) = remarks(Echo("A"), refiner, MICRO, reflect=False)
    assert (only_refined.reflection, only_refined.cost.vlm_calls) == ("", 1)  # the micro template shows no reflection


def test_a_refiner_that_is_shown_the_reflection_has_it_written(templates):
    refine = templates("refine.txt", "{prompt} {reflection}")
    (first, _) = remarks(Echo("A"), Echo("B"), replace(MICRO, refine=refine), reflect=False)
    assert "A: " in first.prompt
    assert first.cost.vlm_calls == 2


def test_answers_that_were_cut_off_leave_no_reflection_and_the_prompt_as_it_was():
    first, second = remarks(Echo("A", cut="a star"), Echo("B", cut="two rings"), MICRO)
    assert first.reflection == ""
    assert first.prompt.startswith("B: ")
    assert second.reflection.startswith("A: ")
    assert second.prompt == "two rings, large"


@pytest.mark.parametrize(
    ("refined", "kept"),
    [
        ("a photo of a red star left of a blue ring, exactly two objects", True),
        ("A red star stands to the left of one large blue ring.", True),
        ("a photo of a red star, exactly one object", False),
        ("a photo of a blue star left of a red ring", False),
        ("a photo of a blue ring and a red star left of it", False),
        ("", False),
    ],
)
def test_a_refined_prompt_keeps_the_users_words_in_their_order(refined: str, kept: bool):
    assert keeps_words("a photo of a red star left of a blue ring", refined) == kept


def test_a_refined_prompt_that_lost_a_word_leaves_the_current_one(templates):
    class Forgetful(Echo):
        def answer(self, requests):
            super().answer(requests)
            return [ChatAnswer("a red star" if "star" in r.text else "a ring", True, 10, 3) for r in requests]

    first, second = remarks(Echo("A"), Forgetful("B"), MICRO)
    assert (first.prompt, second.prompt) == ("a red star", CURRENT[1])
    assert second.cost.vlm_calls == 2  # it was asked for all the same
    _, taken = remarks(Echo("A"), Forgetful("B"), replace(MICRO, keep_words=False))
    assert taken.prompt == "a ring"
