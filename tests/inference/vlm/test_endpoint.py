"""EndpointVlm against a real HTTP server that misbehaves as endpoints do."""

import json
from dataclasses import replace

import numpy as np
import openai
import pytest

from inference.interfaces import ChatRequest
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.sampling import Sampling
from schemas.errors import RequestFailedError
from tests.support.chat_server import Reply, chat_server, fails, says, text_of

IMAGE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


class DictJournal(dict):
    def put(self, key, value):
        self[key] = value


def vlm_at(server, journal=None, **changes):
    config = EndpointConfig(server.base_url, "m", timeout_s=5.0, max_retries=1)
    return EndpointVlm(replace(config, **changes), journal)


def questions(number):
    return [ChatRequest(f"question {i}", (IMAGE,)) for i in range(number)]


def test_answers_come_in_order_with_their_token_counts_and_the_limit_of_requests_at_once_holds():
    def answer(payload, number):
        reply = says(f"to {text_of(payload)}")
        reply.seconds = 0.05
        return reply

    with chat_server(answer) as server:
        answers = vlm_at(server, concurrency=3).answer(questions(9))
    assert [a.text for a in answers] == [f"to question {i}" for i in range(9)]
    assert {(a.num_prompt_tokens, a.num_tokens, a.finished) for a in answers} == {(11, 7, True)}
    assert 2 <= server.most_at_once <= 3


def test_images_go_before_the_text_as_png_and_schemas_only_where_wanted():
    request = ChatRequest("hello", (IMAGE,), system="be short", json_schema='{"type": "object"}')
    with chat_server(lambda payload, number: says("x")) as server:
        vlm_at(server).answer([request])
        vlm_at(server, constrain_json=False).answer([request])
    first, second = server.payloads
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    image, text = first["messages"][1]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "hello"}
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "response_format" not in second
    assert first["temperature"] == 0


def test_a_second_attempt_is_sampled_and_another_question():
    with chat_server(lambda payload, number: says(str(number))) as server:
        journal = DictJournal()
        vlm = vlm_at(server, journal)
        texts = [vlm.answer([ChatRequest("q", attempt=attempt)])[0].text for attempt in (0, 1, 2, 0)]
    assert texts == ["0", "1", "2", "0"]
    assert server.payloads[1]["temperature"] > 0


def test_what_is_journalled_is_not_asked_again_even_after_a_failure():
    def answer(payload, number):
        return fails(400) if text_of(payload) == "question 3" else says("fine")

    journal = DictJournal()
    with chat_server(answer) as server:
        with pytest.raises(openai.BadRequestError):
            vlm_at(server, journal).answer(questions(5))
        assert len(journal) == 4
        asked = len(server.payloads)
        vlm_at(server, journal).answer([q for q in questions(5) if q.text != "question 3"])
        assert len(server.payloads) == asked


def test_the_same_question_twice_in_a_batch_is_asked_once():
    with chat_server(lambda payload, number: says(str(number))) as server:
        answers = vlm_at(server).answer([*questions(1), *questions(1)])
    assert [a.text for a in answers] == ["0", "0"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(status):
    with chat_server(lambda payload, number: fails(status) if number == 0 else says("fine")) as server:
        assert vlm_at(server).answer(questions(1))[0].text == "fine"


@pytest.mark.parametrize("reply", [Reply("{}"), Reply('{"choices": [{'), Reply("<html>", kind="text/html"), Reply("7")])
def test_garbage_is_asked_again_and_then_blamed_on_the_request(reply):
    with chat_server(lambda payload, number: reply) as server:
        with pytest.raises(RequestFailedError, match="no chat completion"):
            vlm_at(server).answer(questions(1))
        assert len(server.payloads) == 3
    with chat_server(lambda payload, number: reply if number == 0 else says("fine")) as server:
        assert vlm_at(server).answer(questions(1))[0].text == "fine"


def test_an_error_of_one_request_is_told_from_an_outage_by_whether_the_endpoint_lives():
    with chat_server(lambda payload, number: fails(500)) as server, pytest.raises(RequestFailedError, match="lives"):
        vlm_at(server).answer(questions(1))
    with (
        chat_server(lambda payload, number: fails(500), lives=False) as server,
        pytest.raises(openai.InternalServerError),
    ):
        vlm_at(server).answer(questions(1))


def test_nothing_at_all_is_an_outage():
    with chat_server(lambda payload, number: says("x")) as server:
        pass
    with pytest.raises(openai.APIConnectionError):
        vlm_at(server, max_retries=0).answer(questions(1))


def test_an_answer_that_was_cut_off_says_so():
    with chat_server(lambda payload, number: says("and so on", finish="length")) as server:
        assert not vlm_at(server).answer(questions(1))[0].finished


def test_probabilities_of_first_words_add_up_over_tokens():
    top = [("Yes", -0.5), (" yes", -2.0), ("No", -3.0), ("The", -4.0), ("", -5.0)]

    def answer(payload, number):
        body = json.loads(says("Yes").body)
        tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in top]
        body["choices"][0]["logprobs"] = {
            "content": [{"token": "Yes", "logprob": -0.5, "bytes": None, "top_logprobs": tokens}]
        }
        return Reply(json.dumps(body))

    with chat_server(answer) as server:
        found = vlm_at(server).first_word_probabilities(questions(1), ("Yes", "No"))
    assert found[0] == pytest.approx([np.exp(-0.5) + np.exp(-2.0), np.exp(-3.0)], rel=1e-5)
    assert server.payloads[0]["max_tokens"] == 1


def test_the_key_of_a_request_covers_images_and_sampling():
    asked = (
        ChatRequest("q"),
        ChatRequest("q", (IMAGE,)),
        ChatRequest("q", (IMAGE[::-1],)),
        ChatRequest("q", (IMAGE.reshape(4, 16, 3),)),
        ChatRequest("q", attempt=1),
        ChatRequest("p"),
    )
    ways = (
        {},
        {"sampling": Sampling(temperature=0.9)},
        {"sampling": Sampling(temperature=0.9, top_p=0.5)},
        {"sampling": Sampling(temperature=0.9, seed=1)},
        {"image_format": "jpeg"},
        {"max_image_pixels": 16},
        {"extra_body": '{"min_p": 0.1}'},
    )
    journal = DictJournal()
    with chat_server(lambda payload, number: says("x")) as server:
        for way in ways:
            vlm_at(server, journal, **way).answer(asked)
    assert len(journal) == len(asked) * len(ways)
