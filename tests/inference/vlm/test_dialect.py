"""What an endpoint refuses is learnt from what it says, in the words of several servers."""

import json
import logging

import numpy as np
import openai
import pytest

from inference.interfaces import ChatRequest
from inference.vlm import dialect
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.sampling import Sampling
from schemas.errors import AccessError
from tests.support.chat_server import Reply, chat_server, says
from tests.support.openai_server import KEY, openai_server, refusal

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer", "minimum": 0}}, "required": ["n"]})
IMAGE = np.zeros((8, 8, 3), np.uint8)


class DictJournal(dict):
    def put(self, key, value):
        self[key] = value


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def vlm_at(server, journal=None, **changes):
    return EndpointVlm(EndpointConfig(server.base_url, **{"model": "m", "max_retries": 0} | changes), journal)


def requests(number=1, attempt=0):
    return [ChatRequest(f"q{i}", (IMAGE,), json_schema=SCHEMA, attempt=attempt) for i in range(number)]


def test_a_reasoning_model_is_asked_as_it_wants_from_then_on_and_it_is_said_once(caplog):
    caplog.set_level(logging.WARNING)
    hot = Sampling(temperature=0.9, top_p=0.5, top_k=20)
    with openai_server(reasoning=True) as (server, refused):
        vlm = vlm_at(server, sampling=hot, max_new_tokens=99, concurrency=1)
        assert len(vlm.answer(requests(3))) == 3
        assert len(refused) == 4
        assert len(server.payloads) == 7
        vlm_at(server, sampling=hot).answer([ChatRequest("another of this process")])
        assert len(server.payloads) == 8
    last = server.payloads[6]
    assert last["max_completion_tokens"] == 99
    assert not last.keys() & {"max_tokens", "temperature", "top_p", "top_k"}
    assert last["response_format"]["json_schema"]["strict"]
    (said,) = [r.getMessage() for r in caplog.records if r.name == dialect.__name__]
    assert all(name in said for name in ("max_completion_tokens", "temperature", "top_p", "top_k"))


def test_many_requests_at_once_learn_it_too():
    with openai_server(reasoning=True) as (server, _):
        assert len(vlm_at(server, concurrency=8).answer(requests(24))) == 24


def test_keys_of_the_journal_know_nothing_of_it():
    """An answer of a server that takes everything is found again where one takes little, and the other way round."""
    kept = DictJournal()
    with openai_server() as (server, _):
        vlm_at(server, kept).answer(requests(2))
    with openai_server(reasoning=True) as (server, _):
        vlm_at(server, kept).answer(requests(2))
        assert not server.payloads
        vlm_at(server, DictJournal()).answer(requests(1))
        other = DictJournal()
        vlm_at(server, other).answer(requests(2))
    assert other.keys() == kept.keys()


OTHERS = {
    "vLLM": ("seed", {"object": "error", "message": "seed is not supported by this engine", "code": 400}),
    "Azure": (
        "temperature",
        {"error": {"code": "unsupported_value", "param": "temperature", "message": "Unsupported"}},
    ),
    "LiteLLM": (
        "temperature",
        {
            "error": {
                "message": "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.0. Only "
                "temperature=1 is supported.",
                "type": None,
                "param": None,
                "code": "400",
            }
        },
    ),
    "Gemini": (
        "seed",
        [{"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}}],
    ),
    "Mistral": ("seed", {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs ..."}]}),
    "OpenAI, older": ("seed", {"error": {"message": "Unrecognized request argument supplied: seed", "param": None}}),
}


@pytest.mark.parametrize("server_name", OTHERS)
def test_the_words_of_other_servers(server_name):
    name, body = OTHERS[server_name]
    status = 422 if server_name == "Mistral" else 400

    def answer(payload, number):
        return Reply(json.dumps(body), status) if name in payload else says("fine")

    with chat_server(answer) as server:
        assert vlm_at(server).answer(requests())[0].text == "fine"
        assert len(server.payloads) == 2
        assert server.payloads[0].keys() - server.payloads[1].keys() == {name}


def test_of_two_that_do_not_go_together_one_stays():
    def answer(payload, number):
        both = {"temperature", "top_p"} <= payload.keys()
        return refusal("`temperature` and `top_p` cannot both be specified for this model.") if both else says("fine")

    with chat_server(answer) as server:
        vlm_at(server, sampling=Sampling(0.9, 0.5)).answer(requests())
    assert "temperature" in server.payloads[-1]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.", None),
        ("Invalid schema for response_format 'answer': In context=('n',), 'minimum' is not permitted.", "bare"),
    ],
)
def test_a_server_without_json_schemas_is_asked_for_the_form_in_words_alone(said, sent, caplog):
    def answer(payload, number):
        there = json.dumps(payload.get("response_format", {}))
        refused = "minimum" in there if sent else bool(payload.get("response_format"))
        return refusal(said, "response_format") if refused else says("fine")

    with chat_server(answer) as server:
        vlm_at(server, concurrency=1).answer(requests(3))
    assert len(server.payloads) == 4
    assert ("response_format" in server.payloads[-1]) == bool(sent)
    assert "JSON Schema" in caplog.text


def test_a_limit_that_one_request_passes_teaches_nothing():
    said = "'max_tokens' is too large: 99. This model's maximum context length is 80 tokens; this is not supported."

    def answer(payload, number):
        return refusal(said, "max_tokens") if number == 0 else says("fine")

    with chat_server(answer) as server:
        with pytest.raises(openai.BadRequestError):
            vlm_at(server).answer(requests())
        vlm_at(server).answer(requests())
    assert "max_tokens" in server.payloads[-1]


def test_what_teaches_nothing_is_told_in_the_server_s_words():
    body = json.dumps([{"error": {"message": "the image is too dark"}}])
    with chat_server(lambda payload, number: Reply(body, 400)) as server:
        with pytest.raises(openai.BadRequestError, match="too dark"):
            vlm_at(server).answer(requests())
        assert len(server.payloads) == 1


def test_what_is_learnt_is_forgotten_where_it_does_not_help():
    with chat_server(lambda payload, number: refusal("unsupported: seed, temperature, max_tokens")) as server:
        with pytest.raises(openai.BadRequestError):
            vlm_at(server).answer(requests())
        assert dialect.dialect_of(server.base_url, "m") == dialect.Dialect()


def test_no_log_probabilities_is_said_at_once():
    with openai_server(reasoning=True) as (server, _), pytest.raises(AccessError, match="log-prob"):
        vlm_at(server).first_word_probabilities(requests(20), ("Yes", "No"))


def test_more_of_the_body_and_headers_are_sent(monkeypatch):
    monkeypatch.setenv("GATEWAY", "secret-of-the-gateway")
    with chat_server(lambda payload, number: says("fine")) as server:
        body = '{"chat_template_kwargs": {"enable_thinking": false}, "min_p": 0.1}'
        vlm_at(server, extra_body=body, headers=("x-gateway=GATEWAY",)).answer(requests())
    assert server.payloads[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.payloads[0]["min_p"] == 0.1
    assert {k.lower(): v for k, v in server.headers[0].items()}["x-gateway"] == "secret-of-the-gateway"


def test_each_sampled_request_has_a_seed_of_its_own_and_has_it_again():
    hot = Sampling(temperature=0.9)
    with chat_server(lambda payload, number: says("fine")) as server:
        for sampling in (hot, hot, Sampling(temperature=0.9, seed=1)):
            vlm_at(server, sampling=sampling, concurrency=1).answer([*requests(2), *requests(1, attempt=1)])
        vlm_at(server, concurrency=1).answer([*requests(2), *requests(1, attempt=1)])
    seeds = [payload["seed"] for payload in server.payloads]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds[3:9])) == 6
    assert seeds[9:] == [0, 0, 1]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_our_own_vllm_is_told_of_no_limit_where_its_model_might_have_one():
    with chat_server(lambda payload, number: says("fine")) as server:
        vlm_at(server, is_vllm=True).answer(requests(attempt=1))
        vlm_at(server, is_vllm=True).answer(requests())
        vlm_at(server).answer(requests(attempt=1))
    assert [payload.get("top_k") for payload in server.payloads] == [0, None, None]
    assert [payload.get("top_p") for payload in server.payloads] == [1.0, None, 1.0]
