"""A brainstorm through the real client, against a server on loopback that gives scripted answers in turn."""

import json
from contextlib import contextmanager

import pytest

from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.journal import StorageJournal
from pipelines.prompts.brainstorm import BrainstormConfig, TurnedDown, brainstorm_vocabulary
from pipelines.prompts.compose_rules import compose_prompts
from pipelines.prompts.vocabulary import ObjectClass, load_vocabulary, save_vocabulary
from schemas.errors import InputError, RequestFailedError, WorkFailedError
from schemas.storage import LocalStorage
from tests.support.chat_server import Reply, chat_server, fails, says, text_of

OBJECTS = [
    {"name": "goose", "plural": "geese", "article": "a"},
    {"name": "hourglass", "plural": "hourglasses", "article": "an"},
    {"name": "Scissors", "plural": "scissors", "article": "a pair of"},
    {"name": "carpet cleaner", "plural": "carpet cleaners", "article": "a"},
]
COLORS = {"colors": ["red", "Blue", "red", "green"]}
TWO_COLORS = ("red", "blue")


def said(value):
    return says(value if isinstance(value, str) else json.dumps(value))


@contextmanager
def endpoint(*script):
    """The scripted answers in turn, then a refusal."""
    with chat_server(lambda _, number: script[number] if number < len(script) else fails(418)) as server:
        yield server


def brainstorm(server, folder, **changes):
    journal = StorageJournal(LocalStorage(folder))
    vlm = EndpointVlm(EndpointConfig(server.base_url, "tiny", max_retries=1), journal)
    return brainstorm_vocabulary(BrainstormConfig(**{"num_objects": 4, **changes}), vlm, "tiny")


def test_objects_and_colors_become_a_vocabulary(tmp_path):
    with endpoint(said({"objects": OBJECTS}), said(COLORS)) as server:
        found = brainstorm(server, tmp_path, topic="things of a farm", max_count=3)
    assert found.vocabulary.classes == (
        ObjectClass("goose", "geese"),
        ObjectClass("hourglass", "hourglasses", "an"),
        ObjectClass("scissors", "scissors", "a pair of"),
        ObjectClass("carpet cleaner", "carpet cleaners"),
    )
    assert found.vocabulary.colors == ("red", "blue", "green")
    assert found.vocabulary.max_count == 3
    assert found.num_answers == 2
    first = server.payloads[0]
    assert first["response_format"]["json_schema"]["schema"]["properties"].keys() == {"objects"}
    assert "things of a farm" in text_of(first)
    assert first["messages"][0]["role"] == "system"


def test_the_vocabulary_can_be_saved_loaded_and_composed_from(tmp_path):
    with endpoint(said({"objects": OBJECTS}), said(COLORS)) as server:
        vocabulary = brainstorm(server, tmp_path / "kept").vocabulary
    save_vocabulary(vocabulary, tmp_path / "farm.json")
    assert load_vocabulary(tmp_path / "farm.json") == vocabulary
    assert len(compose_prompts(vocabulary, 40, 0, None).prompts) == 40


def test_a_second_brainstorm_makes_no_request_and_another_question_does(tmp_path):
    with endpoint(said({"objects": OBJECTS}), said(COLORS), said({"objects": OBJECTS})) as server:
        first = brainstorm(server, tmp_path)
        assert brainstorm(server, tmp_path) == first
        assert len(server.payloads) == 2
        brainstorm(server, tmp_path, topic="tools")
        assert len(server.payloads) == 3  # the question about colours does not depend on the topic


def test_it_asks_on_until_there_are_enough_different_objects(tmp_path):
    again = [{"name": "geese", "plural": "geese", "article": "a"}, {**OBJECTS[3], "name": "Goose"}]
    script = ({"objects": OBJECTS[:2]}, {"objects": [OBJECTS[2], again[0]]}, {"objects": [OBJECTS[3], again[1]]})
    with endpoint(*map(said, script)) as server:
        found = brainstorm(server, tmp_path, objects_per_request=2, colors=TWO_COLORS)
    assert [cls.name for cls in found.vocabulary.classes] == ["goose", "hourglass", "scissors", "carpet cleaner"]
    assert found.vocabulary.colors == TWO_COLORS
    assert "goose, hourglass, scissors" in text_of(server.payloads[2])
    assert [(one.name, one.why) for one in found.turned_down] == [
        ("geese", "named already, as 'goose'"),
        ("goose", "named already, as 'goose'"),
    ]


def test_what_was_answered_before_an_outage_is_not_asked_again(tmp_path):
    import openai

    with endpoint(said({"objects": OBJECTS[:2]}), fails(503), fails(503)) as server:
        server.lives = False
        with pytest.raises(openai.InternalServerError):
            brainstorm(server, tmp_path, objects_per_request=2)
    with endpoint(said({"objects": OBJECTS[2:]}), said(COLORS)) as server:
        assert len(brainstorm(server, tmp_path, objects_per_request=2).vocabulary.classes) == 4
        assert len(server.payloads) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        said("Sure! Here are some objects: goose, duck"),
        says('{"objects": [{"name": "goo', finish="length"),
        said({"things": []}),
        said({"objects": []}),
        said({"objects": [{"name": "a.b", "plural": "x", "article": "a"}, "duck", {"name": "no plural"}]}),
        said(""),
    ],
    ids=["prose", "cut", "other key", "empty", "unusable entries", "no text"],
)
def test_garbage_is_asked_again_with_another_seed(tmp_path, garbage):
    with endpoint(garbage, said({"objects": OBJECTS})) as server:
        vocabulary = brainstorm(server, tmp_path, colors=TWO_COLORS).vocabulary
        assert len(vocabulary.classes) == 4
        assert len(server.payloads) == 2
        assert server.payloads[0]["seed"] != server.payloads[1]["seed"]
        assert brainstorm(server, tmp_path, colors=TWO_COLORS).vocabulary == vocabulary
        assert len(server.payloads) == 2


def test_an_answer_in_a_code_fence_is_read(tmp_path):
    with endpoint(said("```json\n" + json.dumps({"objects": OBJECTS}) + "\n```")) as server:
        assert len(brainstorm(server, tmp_path, colors=TWO_COLORS).vocabulary.classes) == 4


def test_nothing_but_garbage_is_an_error_that_says_who_said_what(tmp_path):
    with endpoint(*[said("I cannot do that")] * 3) as server:
        with pytest.raises(WorkFailedError, match="tiny gave no usable list of objects") as caught:
            brainstorm(server, tmp_path, max_attempts=3)
        assert len(server.payloads) == 3
    for words in ("3 tries", "not valid JSON", "it said: 'I cannot do that'", "what to do"):
        assert words in str(caught.value)


def test_an_answer_without_room_says_so(tmp_path):
    cut = says('{"objects": [', finish="length")
    with endpoint(cut) as server, pytest.raises(WorkFailedError, match="cut off after 7 tokens"):
        brainstorm(server, tmp_path, max_attempts=1)


def test_a_server_that_speaks_no_chat_is_an_error(tmp_path):
    page = Reply("<html>hello</html>", kind="text/html")
    with endpoint(page, page, page) as server, pytest.raises(RequestFailedError, match="answers no chat completion"):
        brainstorm(server, tmp_path)


def test_unusable_entries_are_turned_down_and_the_rest_is_used(tmp_path):
    mixed = [OBJECTS[0], {"name": "a.b", "plural": "y", "article": "a"}, {**OBJECTS[1], "note": "ignored"}, OBJECTS[3]]
    with endpoint(said({"objects": mixed})) as server:
        found = brainstorm(server, tmp_path, num_objects=2, colors=TWO_COLORS)
    assert [cls.name for cls in found.vocabulary.classes] == ["goose", "hourglass"]
    assert found.turned_down == (
        TurnedDown("objects", "a.b", "'a.b' is no usable name"),
        TurnedDown("objects", "carpet cleaner", "more than the 2 objects that were asked for"),
    )


def test_one_color_is_too_few(tmp_path):
    with endpoint(said({"objects": OBJECTS}), said({"colors": ["red"]}), said({"colors": ["blue"]})) as server:
        assert brainstorm(server, tmp_path).vocabulary.colors == ("red", "blue")
        assert "Leave out red" in text_of(server.payloads[2])


def test_a_model_that_repeats_itself_is_an_error(tmp_path):
    with endpoint(*[said({"objects": OBJECTS})] * 4) as server:
        with pytest.raises(WorkFailedError, match="only 4 different objects of 5"):
            brainstorm(server, tmp_path, num_objects=5, max_attempts=3)
        assert len(server.payloads) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_objects", 0), ("objects_per_request", 1), ("max_count", 17), ("colors", ("red",)), ("colors", ("Red", "a"))],
)
def test_senseless_sizes_are_bad_usage(tmp_path, field, value):
    with endpoint() as server, pytest.raises(InputError) as caught:
        brainstorm(server, tmp_path, **{field: value})
    assert caught.value.field == field
    assert server.payloads == []
