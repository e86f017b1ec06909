"""EndpointVlm against a real HTTP server that misbehaves as endpoints do."""

import json
import threading
from dataclasses import replace

import numpy as np
import openai
import pytest

from inference.interfaces import ChatRequest
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.sampling import Sampling
from schemas.errors import RequestFailedError, UnscoredError
from tests.support.chat_server import Reply, chat_server, fails, says, text_of

IMAGE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


class DictJournal(dict):
    def put(self, key, value):
        self[key] = value


def vlm_at(server, journal=None, **changes):
    config = EndpointConfig(server.base_url, "m", timeout_s=60.0, max_retries=1)
    return EndpointVlm(replace(config, **changes), journal)


def questions(number):
    return [ChatRequest(f"question {i}", (IMAGE,)) for i in range(number)]


def test_answers_come_in_order_with_their_token_counts_and_the_limit_of_requests_at_once_holds():
    second = threading.Event()

    def answer(payload, number):
        if number == 1:
            second.set()
        second.wait(30)
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


def token_by_token(*steps):
    """A server that takes each step's first token, as many as it is asked for."""

    def answer(payload, number):
        body = json.loads(says(steps[0][0][0]).body)
        body["choices"][0]["logprobs"] = {
            "content": [
                {
                    "token": tops[0][0],
                    "logprob": float(np.log(tops[0][1])),
                    "top_logprobs": [{"token": t, "logprob": float(np.log(p))} for t, p in tops],
                }
                for tops in steps[: payload["max_tokens"]]
            ]
        }
        return Reply(json.dumps(body))

    return chat_server(answer)


@pytest.mark.parametrize(
    ("steps", "wanted", "num_asked"),
    [
        ([[("Yes", 0.7), ("No", 0.2), ("Not", 0.1)]], [0.7, 0.2], 1),
        ([[("No", 0.8), ("Y", 0.2)]], [0.2, 0.8], 1),
        ([[("Y", 0.8), ("No", 0.2)], [("es", 0.5), ("ou", 0.4), ("ES", 0.1)]], [0.8 * 0.6, 0.2], 2),
        ([[("**", 0.9), ("No", 0.1)], [("Yes", 0.6), ("No", 0.3)]], [0.54, 0.37], 2),
        ([[("\n", 0.9)], [("**", 1.0)], [("▁Yes".replace("▁", " "), 0.9), (" no", 0.1)]], [0.81, 0.09], 2),
        ([[("Y", 0.8)]], [0.8, 0.0], 2),
        ([[("YES,", 0.6), ("no.", 0.3)]], [0.6, 0.3], 1),
    ],
)
def test_a_first_token_that_is_not_yet_a_word_has_the_next_ones_asked_for(steps, wanted, num_asked):
    journal = DictJournal()
    with token_by_token(*steps) as server:
        for _ in range(2):
            found = vlm_at(server, journal).first_word_probabilities(questions(1), ("Yes", "No"))
            assert found[0] == pytest.approx(wanted, rel=1e-5)
    assert len(server.payloads) == num_asked


@pytest.mark.parametrize("said", ["<think>", "The", "\n"])
def test_what_begins_with_another_word_is_not_scored(said):
    with token_by_token([(said, 0.96), ("Yes", 0.02)], [(" image", 0.9)]) as server:
        with pytest.raises(UnscoredError, match=r"(?s)m does not answer Yes or No to 'question 0'.*0.96.*enable_think"):
            vlm_at(server).first_word_probabilities(questions(1), ("Yes",))
        assert vlm_at(server, answer_floor=0.0).first_word_probabilities(questions(1), ("Yes",))[0] < 0.03
        assert vlm_at(server).first_word_probabilities(questions(1), ("red",))[0] == 0


def test_a_vllm_of_our_own_is_told_not_to_think_aloud_and_others_are_not():
    bodies = ("", '{"chat_template_kwargs": {"enable_thinking": true}}', '{"chat_template_kwargs": {"tone": "dry"}}')
    with chat_server(lambda payload, number: says("x")) as server:
        for body in bodies:
            vlm_at(server, is_vllm=True, extra_body=body).answer(questions(1))
        vlm_at(server).answer(questions(1))
    asked = [payload.get("chat_template_kwargs") for payload in server.payloads]
    assert asked == [
        {"enable_thinking": False},
        {"enable_thinking": True},
        {"enable_thinking": False, "tone": "dry"},
        None,
    ]


def test_a_vllm_whose_tokenizer_takes_no_template_is_asked_without():
    """As vLLM says it of Mistral's tokenizers."""

    def answer(payload, number):
        if "chat_template_kwargs" in payload:
            return Reply(
                json.dumps({"error": {"message": "chat_template is not supported for Mistral tokenizers."}}), 400
            )
        return says("fine")

    with chat_server(answer) as server:
        vlm = vlm_at(server, is_vllm=True)
        assert [vlm.answer(questions(1))[0].text for _ in range(2)] == ["fine", "fine"]
    assert ["chat_template_kwargs" in payload for payload in server.payloads] == [True, False, False]


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
