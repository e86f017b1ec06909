"""A description as questions: which parts are asked for, in which order, and what is no part."""

import pytest

from inference.dual.implied import read_statements
from inference.dual.questions import bare, questions_about
from inference.dual.statements import described_questions, objects_named, statements
from schemas.errors import InputError


def asked(description, prompt="a clover"):
    """Questions without the last, on the prompt; those to be answered with No have a minus before them."""
    found = described_questions(prompt, description)
    assert found[-1].question == f"Does the image show {bare(prompt)}?"
    return [f"{'-' if q.answer == 'No' else ''}{q.question}" for q in found[:-1]]


@pytest.mark.parametrize(
    ("description", "questions"),
    [
        ("A green heart.", ["Is there a heart?", "Is there a green heart?"]),
        (
            "a red triangle just above a white square",
            [
                "Is there a square?",
                "Is there a triangle?",
                "Is there a white square?",
                "Is there a red triangle?",
                "Is the triangle above the square?",
            ],
        ),
        (
            "A yellow circle just above the horizon.",
            [
                "Is there a circle?",
                "Is there a yellow circle?",
                "Does the image show a yellow circle just above the horizon?",
            ],
        ),
        (
            "The light bulb is dark. There is a light bulb. The filament isn't glowing. There is no light.",
            ["Is there a light bulb?", "Is the light bulb dark?", "-Is the filament glowing?", "-Is there any light?"],
        ),
        (
            "There are two broken eggs on the floor.",
            ["Is there an egg?", "Are there two eggs?", "Are there two broken eggs on the floor?"],
        ),
        ("The glass is clear and the pen is bent.", ["Does the image show: the glass is clear and the pen is bent?"]),
        ("The pen bends at the surface.", ["Does the image show: the pen bends at the surface?"]),
        (
            "A dog house stands beside a red car.",
            ["Is there a car?", "Is there a red car?", "Does the image show: a dog house stands beside a red car?"],
        ),
        ("The image shows a cat.", ["Is there a cat?"]),
        ("It is night.", ["Is it night?"]),
    ],
)
def test_statements_become_questions_the_easiest_first(description, questions):
    assert asked(description) == questions


@pytest.mark.parametrize(
    "said",
    [
        "a table without a plate",
        "a cup that has been broken",
        "a butterfly about to leave a bottle",
        "a cat and not a dog",
        "a plate that was once a cake",
        "a man who will eat a banana",
    ],
)
def test_what_is_denied_or_of_another_time_is_no_object(said):
    assert asked(said) == [f"Does the image show: {said}?"]
    assert [q.question for q in questions_about(f"a photo of {said}", parts=True)] == [f"Does the image show {said}?"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a small red circle, and a tiny cat", [("circle", 1, "red"), ("cat", 1, None)]),
        ("an orange", [("orange", 1, None)]),
        ("an orange cat sleeping on a couch", [("cat", 1, "orange"), ("couch", 1, None)]),
        ("three old dogs and a very old cat", [("dog", 3, None)]),
        ("a dog house", []),
        ("a", []),
        ("a red", []),
        ("two", []),
    ],
)
def test_objects_in_words(text, found):
    assert [(one.class_name, one.count, one.color) for _, one in objects_named(text)] == found


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("A green heart.", ["a green heart"]),
        ("1. What it is: a lamp\n2. Where: on a desk", ["a lamp", "on a desk"]),
        (
            "Here is the description:\n- There is a lamp\n- **The lamp is dark**",
            ["there is a lamp", "the lamp is dark"],
        ),
        ("<think>a lamp. no light.</think>There is a lamp\nThe lamp is dark", ["there is a lamp", "the lamp is dark"]),
        ('```json\n["There is a lamp", "It is off"]\n```', ["there is a lamp", "it is off"]),
        ("Here is what a right image shows: What it is: A lamp that is off", ["a lamp that is off"]),
        ("Objects: a lamp, a desk, and two chairs", ["a lamp", "a desk", "two chairs"]),
        ("A blue, a white, a red square in a row.", ["a blue, a white, a red square in a row"]),
        ("灯泡是暗的。房间很黑。", ["灯泡是暗的", "房间很黑"]),
        ("No.", None),
        ("", None),
        ("I'm sorry, but I can't help with that.", None),
        ("Could you say more?", None),
        ("[" * 100_000, None),
    ],
)
def test_a_models_answer_is_read_as_statements_or_not_at_all(answer, said):
    found = read_statements(answer)
    assert (None if found is None else statements(found)) == said


def test_a_description_that_states_nothing_is_refused():
    with pytest.raises(InputError, match="nothing is stated"):
        described_questions("a clover", "Yes. " + "x" * 300)


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("A photo of a star", "a star"),
        ("a photo of", "a photo of"),
        ("The moon.", "the moon"),
        ("Paris at night", "Paris at night"),
        ("A", "A"),
        ("日の出。", "日の出"),
    ],
)
def test_a_prompt_as_it_stands_in_a_question(prompt, inside):
    assert bare(prompt) == inside
