"""The probability of an expected answer: a number as word or digits, yes in all spellings, and no floor."""

import numpy as np
import pytest

from inference.requirements.question_atoms import answer_words, question_probabilities
from microworld.family import micro_vlm
from microworld.scenes.world import Background, Scene, SceneObject, render
from schemas.errors import InputError
from schemas.records import Question


@pytest.fixture(scope="module")
def vlm():
    return micro_vlm().without_floor.open()


def star(color, x):
    return SceneObject("star", color, x, 16.0, 9.0)


@pytest.fixture(scope="module")
def images():
    scenes = [Scene(Background(), (star("red", 8.0), star("red", 24.0))), Scene(Background(), (star("blue", 16.0),))]
    return list(render(scenes).images)


def test_the_micro_vlm_tells_the_image_that_a_question_is_true_of(vlm, images):
    questions = [Question("Is there a red star?"), Question("How many stars are there?", "two")]
    both = [q for q in questions for _ in images]
    right_red, wrong_red, right_two, wrong_two = question_probabilities(vlm, images * 2, both, "micro/question")
    assert right_red > 0.8 > 0.3 > wrong_red
    assert right_two > 0.8 > 0.3 > wrong_two


def test_a_question_that_is_answered_by_something_else_is_improbable_and_no_error(vlm, images):
    (value,) = question_probabilities(vlm, images[:1], [Question("What color is the star?")], "micro/question")
    assert 0 <= value < 0.05


def test_answers_as_they_are_asked_for():
    assert answer_words(Question("How many?", "Two")) == answer_words(Question("How many?", "2")) == ("two", "2")
    assert answer_words(Question("Is it?", "yes.")) == ("Yes",)
    assert answer_words(Question("How many?", "0")) == ("zero", "0")
    with pytest.raises(InputError, match="no answer is expected"):
        answer_words(Question("Is it?", " "))


def test_no_questions(vlm):
    assert question_probabilities(vlm, [], []).shape == (0,)


def test_an_answer_stands_beside_its_own_question(vlm, images):
    mixed = [
        Question("Is there a red star?"),
        Question("How many stars are there?", "two"),
        Question("Is there a ring?"),
    ]
    template = "micro/question"
    together = question_probabilities(vlm, [images[0]] * 3, mixed, template)
    alone = [question_probabilities(vlm, [images[0]], [one], template)[0] for one in mixed]
    np.testing.assert_allclose(together, alone, atol=1e-4)
