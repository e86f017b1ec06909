"""Questions from words: templates for the six tags, and a model's answers, read with care and asked once."""

import json

import pytest

from inference.dual.concept import QuestionAnswer
from inference.dual.questions import (
    questions_about,
    read_questions,
    template_questions,
    written_questions,
)
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.journal import StorageJournal
from schemas.errors import InputError, RequestFailedError
from schemas.storage import LocalStorage
from tests.support.chat_server import chat_server, says, text_of


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        ("a photo of a star", ["Is there a star?"]),
        ("a photo of a star and a ring", ["Is there a star?", "Is there a ring?"]),
        ("a photo of three crosses", ["Are there three crosses?"]),
        ("a photo of an orange ring", ["Is there an orange ring?"]),
        (
            "a photo of a star left of a ring",
            ["Is there a ring?", "Is there a star?", "Is the star left of the ring?"],
        ),
        ("a photo of a red heart and a blue cross", ["Is there a red heart?", "Is there a blue cross?"]),
    ],
)
def test_templates_of_the_six_tags(prompt, questions):
    found = template_questions(prompt)
    assert [q.question for q in found] == questions
    assert {q.answer for q in found} == {"Yes"}


@pytest.mark.parametrize(
    ("prompt", "questions"),
    [
        ("a photo of a star", ["Is there a star?"]),
        ("a photo of two red circles", ["Is there a circle?", "Are there two circles?", "Are there two red circles?"]),
        (
            "a photo of a red heart and two knives",
            ["Is there a heart?", "Is there a knife?", "Are there two knives?", "Is there a red heart?"],
        ),
        (
            "a red star left of a blue star",
            [
                "Is there a star?",
                "Is there a blue star?",
                "Is there a red star?",
                "Is the red star left of the blue star?",
            ],
        ),
        (
            "two crosses above a ring",
            ["Is there a ring?", "Is there a cross?", "Are there two crosses?", "Are the crosses above the ring?"],
        ),
    ],
)
def test_parts_lead_from_the_objects_to_how_they_stand(prompt, questions):
    parts, plain = template_questions(prompt, parts=True), template_questions(prompt)
    assert [q.question for q in parts] == questions
    assert {q.question for q in plain} <= set(questions)


def test_a_number_keeps_its_colour_and_its_plural():
    assert [q.question for q in template_questions("two red knives and a cat")] == [
        "Are there two red knives?",
        "Is there a cat?",
    ]


def test_a_prompt_in_no_known_form_is_asked_about_as_a_whole():
    with pytest.raises(InputError):
        template_questions("a photo of dusk")
    assert [q.question for q in questions_about("a photo of dusk")] == ["Does the image show dusk?"]


def plain(questions):
    return None if questions is None else [(q.question, q.answer) for q in questions]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"questions": [{"question": "Is it lit?", "answer": "Yes"}]}', [("Is it lit?", "Yes")]),
        ('Sure:\n```json\n{"questions": [{"question": " a? ", "answer": "No"}]}\n```', [("a?", "No")]),
        ('{"questions": []}', None),
        ('{"questions": [{"question": "", "answer": "Yes"}]}', None),
        ('{"questions": ["Is it lit?"]}', None),
        ("Is it lit? Yes", None),
        ('{"questions": [{"question": 3, "answer": "Yes"}]}', None),
    ],
)
def test_only_questions_are_read(answer, expected):
    assert plain(read_questions(answer)) == expected


def endpoint(server, folder):
    journal = StorageJournal(LocalStorage(folder), "questions")
    return EndpointVlm(EndpointConfig(server.base_url, "m", max_retries=0), journal)


def test_a_models_questions_are_asked_for_once_and_again_where_they_are_no_json(tmp_path):
    good = json.dumps({"questions": [{"question": "Is the lamp dark?", "answer": "Yes"}]})

    def answer(payload, number):
        if "a lamp" in text_of(payload) and payload["seed"] == 0:
            return says("I would ask whether it is dark.")
        return says(good)

    with chat_server(answer) as server:
        for _ in range(2):
            found = written_questions(endpoint(server, tmp_path), ["a lamp", "a pen"], ["no light", "bent"])
            assert [plain(q) for q in found] == [[("Is the lamp dark?", "Yes")]] * 2
        assert len(server.payloads) == 3  # two, and the first again; nothing the second time
        assert sum("no light" in text_of(payload) for payload in server.payloads) == 2
        assert {p["response_format"]["type"] for p in server.payloads} == {"json_schema"}


def test_a_model_that_writes_no_questions_is_an_error(tmp_path):
    with (
        chat_server(lambda payload, number: says("no")) as server,
        pytest.raises(RequestFailedError, match="a lamp"),
    ):
        written_questions(endpoint(server, tmp_path), ["a lamp"])


def test_a_question_shows_what_the_vlm_is_shown():
    import numpy as np

    from inference.vlm.overlays import HorizonPosition

    image = np.full((32, 32, 3), 90, np.uint8)
    shown = QuestionAnswer("?", "Yes", (HorizonPosition(16.5 / 32),)).shown(image)
    assert (shown[16, 5] == (255, 0, 0)).all()
    assert (shown[2] == 90).all()
