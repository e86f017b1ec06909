"""What counts as "nothing to correct", what as empty, and what as a reflection that only looks like one of them."""

import json

import pytest

from inference.reflection_text import is_empty, nothing_to_correct, reflection_of
from inference.search import NOTHING_WRONG


@pytest.mark.parametrize(
    "text",
    [
        NOTHING_WRONG,
        "the image is right",
        " THE IMAGE IS RIGHT!\n",
        '"The image is right."',
        "**The image is right.**",
        "The image is already correct.",
        "Nothing to correct",
        "nothing to correct.",
        "Nothing needs to be changed.",
        "There is nothing to improve.",
        "No correction needed.",
        "No corrections are necessary",
        "No further changes are needed; the image matches the prompt.",
        "The image already matches the prompt perfectly, so no changes are needed.",
        "Reflection: nothing to correct.",
        "None.",
        "No edits needed",
        "Nothing is wrong.",
        json.dumps({"reflection": "nothing to correct"}),
        json.dumps({"Reflection": ["No correction needed."]}),
        '```json\n{"reflection": "The image is right"}\n```',
        json.dumps("The image is right."),
        json.dumps({"analysis": "The star is red.", "reflection": "No changes needed."}),
    ],
)
def test_nothing_to_correct_is_read_in_any_of_its_words(text: str):
    assert nothing_to_correct(text)
    assert not is_empty(text)


@pytest.mark.parametrize(
    "text",
    [
        "Add a blue ring.",
        "The image is right, but add a blue ring.",
        "The image is right of the centre.",
        "Change nothing but the colour of the star.",
        "No star is there: add one.",
        "Correct the number of stars.",
        "Nothing is left of the ring; add a star there.",
        "The image is wrong.",
        json.dumps({"reflection": "Replace the star by a ring."}),
    ],
)
def test_a_reflection_is_not_taken_for_one_that_finds_nothing(text: str):
    assert not nothing_to_correct(text)
    assert not is_empty(text)


@pytest.mark.parametrize("text", ["", "  \n", ".", '""', "{}", "[]", '{"reflection": ""}', "```json\n{}\n```", "-"])
def test_an_empty_answer_is_no_verdict_on_the_image(text: str):
    assert is_empty(text)
    assert not nothing_to_correct(text)


def reflection_in(text):
    return reflection_of(text).text


def test_the_sentence_is_taken_out_of_json_and_left_alone_elsewhere():
    assert reflection_in('{"reflection": ["Add a ring.", "Paint it blue."]}') == "Add a ring. Paint it blue."
    assert reflection_in(' Add a "blue" ring.\nThen a star. ') == 'Add a "blue" ring. Then a star.'
    assert reflection_in("{not JSON") == "{not JSON"
    assert reflection_in("3") == "3"
