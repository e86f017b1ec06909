"""A wrong key, model or account is said at once and clearly; a key stands in nothing that is written."""

import logging
import time
from concurrent import futures

import numpy as np
import pytest

from inference.interfaces import ChatRequest
from inference.vlm import endpoint
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.journal import StorageJournal
from inference.vlm.vlm import VlmConfig
from pipelines.runtime.failures import FailurePolicy, execute
from pipelines.stage import Stage
from schemas.errors import AccessError, InputError, RequestFailedError
from schemas.storage import LocalStorage
from tests.support.chat_server import Reply, chat_server, says
from tests.support.openai_server import KEY, openai_server, refusal
from tests.support.rows import prompt_row

WRONG = "sk-proj-wrong-wrong-wrong-wrong"
IMAGE = np.zeros((8, 8, 3), np.uint8)


def vlm_at(server, journal=None, **changes):
    return EndpointVlm(EndpointConfig(server.base_url, **{"model": "m", "max_retries": 1} | changes), journal)


def requests(number=12):
    return [ChatRequest(f"q{i}") for i in range(number)]


class Asks(Stage):
    name, version = "asks", 1

    def __init__(self, vlm, text="q"):
        self.vlm, self.text = vlm, text

    def __call__(self, rows):
        self.vlm.answer([ChatRequest(self.text, attempt=i) for i, _ in enumerate(rows)])
        return list(rows)


def test_a_wrong_key_names_its_variable_before_any_work(monkeypatch):
    monkeypatch.setenv("MY_KEY", WRONG)
    with openai_server() as (server, _):
        config = VlmConfig(
            kind="endpoint", model="", endpoint_model="m", base_url=server.base_url, api_key_env="MY_KEY"
        )
        with pytest.raises(AccessError, match="MY_KEY") as told:
            config.open()
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(AccessError, match="not set"):
            config.open()
        assert not server.headers
    assert WRONG not in str(told.value)


def test_a_wrong_model_names_those_that_there_are_and_few_requests_are_lost(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def late(*arguments, **options):
        found = futures.wait(*arguments, **options)
        time.sleep(1)  # who waits for the answers gets no time when the first has come
        return found

    monkeypatch.setattr(endpoint, "wait", late)
    with openai_server() as (server, _):
        with pytest.raises(AccessError, match="one of its models: m, n"):
            vlm_at(server, model="nonesuch", concurrency=2).answer(requests(40))
        assert len(server.payloads) < 10


def test_a_run_stops_at_once_where_nothing_would_be_answered(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", WRONG)
    with openai_server() as (server, _), pytest.raises(AccessError):
        execute(Asks(vlm_at(server)), [prompt_row(i) for i in range(6)], FailurePolicy())


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_forbidden_after_others_were_answered_is_that_request_s_matter(status):
    def answer(payload, number):
        return refusal("flagged", status=status) if number else says("fine")

    with chat_server(answer) as server:
        vlm = vlm_at(server)
        vlm.answer(requests(1))
        with pytest.raises(Exception, match="flagged") as told:
            vlm.answer(requests(2))
    assert not isinstance(told.value, InputError)


def test_an_account_without_credit_is_not_asked_again_and_a_rate_limit_is():
    said = "You exceeded your current quota, please check your plan and billing details."
    with chat_server(lambda payload, number: refusal(said, code="insufficient_quota", status=429)) as server:
        with pytest.raises(AccessError, match="credit"):
            vlm_at(server).answer(requests(1))
        assert len(server.payloads) == 1
    limited = Reply("{}", 429, headers={"Retry-After": "1"})
    with chat_server(lambda payload, number: says("fine") if number else limited) as server:
        started = time.monotonic()
        vlm_at(server).answer(requests(1))
        assert time.monotonic() - started >= 1


def test_the_key_is_in_no_answer_journal_error_or_log(tmp_path, monkeypatch, caplog):
    """An endpoint that repeats the key wherever it can, with every library's log on."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", "Basic dXNlcjpwYXNzd29yZA==")
    caplog.set_level(logging.DEBUG)
    secrets = (KEY, "dXNlcjpwYXNzd29yZA")
    told = []

    def answer(payload, number):
        echo = f"Authorization: Bearer {KEY}, x-gateway: Basic dXNlcjpwYXNzd29yZA=="
        kinds = {
            "said": says(echo),
            "refused": refusal(echo),
            "denied": refusal(echo, status=401),
            "broken": Reply(f"<html>{echo}</html>", kind="text/html"),
            "down": refusal(echo, status=500),
        }
        reply = kinds[payload["messages"][-1]["content"][-1]["text"]]
        reply.headers["X-Echo"] = echo
        return reply

    journal = StorageJournal(LocalStorage(tmp_path))
    with chat_server(answer) as server:
        vlm = vlm_at(server, journal, max_retries=0, headers=("x-gateway=GATEWAY",))
        told.append(vlm.answer([ChatRequest("said", (IMAGE,))])[0].text)
        assert told[0] == "Authorization: Bearer [hidden], x-gateway: [hidden]"
        for kind in ("refused", "denied", "broken", "down"):
            with pytest.raises(Exception, match="hidden") as error:
                vlm.answer([ChatRequest(kind)])
            logging.getLogger("anybody").error("failed", exc_info=error.value)
            failed = (
                execute(Asks(vlm, kind), [prompt_row(0)], FailurePolicy()) if kind in ("refused", "broken") else None
            )
            told += [str(error.value), repr(error.value), str(error.getrepr(style="long", chain=True).reprcrash)]
            if failed:
                (failure,) = failed[1]
                assert "hidden" in failure.error
                told += [failure.error, failure.trace]
    told.append(caplog.text)
    told += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(told) > 10
    assert "x-echo" in caplog.text.lower()  # the log did hold the headers
    assert not [text for text in told for secret in secrets if secret in text]


def test_a_key_that_no_header_can_hold_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two-of-the-same-file")
    with pytest.raises(InputError) as told:
        EndpointVlm(EndpointConfig("http://127.0.0.1:9/v1", "m"))
    assert "sk-" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter22@host/v1",
        "http://token@host:8000/v1",
        "https://host/v1?key=token",
        "me:hunter22@host/v1",
        "//me:hunter22@host/v1",
        "http:/me:hunter22@host/v1",
        "http:\\\\me:hunter22@host\\v1",
        "https://host/v1?api%5Fkey=hunter22",
        "https://host/v1?api-version=1;sig=hunter22",
        "https://host/v1#access_token=hunter22",
        "https://host/v1?code=hunter22",
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="host") as told:
        VlmConfig(kind="endpoint", model="", endpoint_model="m", base_url=url)
    assert "hunter22" not in str(told.value)
    assert "token" not in str(told.value).replace("api_key", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_body": '{"api_key": "hunter22"}'},
        {"extra_body": '{"provider": [{"Authorization": "hunter22"}]}'},
        {"vllm_arguments": ("--max-model-len", "8192", "--api-key", "hunter22")},
        {"vllm_arguments": ("--hf-token=hunter22",)},
    ],
)
def test_a_key_in_what_a_run_writes_down_is_refused_and_not_repeated(changes):
    with pytest.raises(InputError, match="names a secret") as told:
        VlmConfig(**changes)
    assert "hunter22" not in str(told.value)


def test_addresses_and_bodies_without_secrets_are_taken():
    for url in ("http://host:8000/v1", "http://[::1]:8000/v1", "https://h/openai/v1?api-version=preview&max_tokens=5"):
        VlmConfig(kind="endpoint", model="", endpoint_model="m", base_url=url)
    VlmConfig(extra_body='{"max_tokens": 5, "min_p": 0.1, "chat_template_kwargs": {"enable_thinking": false}}')
    VlmConfig(vllm_arguments=("--max-num-batched-tokens", "8192", "--tokenizer=x", "--skip-tokenizer-init"))


@pytest.mark.parametrize("url", ["URL", "localhost:8000/v1", "", "ftp://host/v1"])
def test_what_is_no_address_is_said_before_anything_is_asked(url):
    with pytest.raises(InputError, match="http://host:8000/v1"):
        EndpointVlm(EndpointConfig(url, model="m"))


def test_a_server_that_is_away_is_no_matter_of_the_key():
    with chat_server(lambda payload, number: says("x")) as server:
        pass
    vlm_at(server).check()
    with pytest.raises(Exception, match="Connection") as told:
        vlm_at(server, max_retries=0).answer(requests(1))
    assert not isinstance(told.value, (InputError, RequestFailedError))
