"""Answers that no honest server gives: none is kept as it came, none holds up a run."""

import gzip
import json
import time
import traceback
import tracemalloc
from typing import Any

import numpy as np
import openai
import pyarrow as pa
import pytest

from inference.interfaces import ChatRequest
from inference.vlm.clean_text import clean_text
from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.http_client import MAX_BODY
from inference.vlm.journal import StorageJournal
from inference.vlm.vllm_server import answers
from schemas.errors import RequestFailedError
from schemas.storage import LocalStorage
from schemas.terminal import say_error
from tests.support.chat_server import Reply, chat_server, says
from tests.support.hostile_server import BEHAVIOURS, KEY, LONG_S, body, hostile_server, patience_s

QUESTION = [ChatRequest("q")]


def vlm_at(server, journal=None, **changes):
    return EndpointVlm(EndpointConfig(server.base_url, "m", **{"timeout_s": 60.0, "max_retries": 0} | changes), journal)


def with_usage(usage):
    return Reply(json.dumps(json.loads(says("fine").body) | {"usage": usage}))


def with_logprobs(top):
    body = json.loads(says("Yes").body)
    tokens = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top]
    body["choices"][0]["logprobs"] = {"content": [{"token": "Yes", "logprob": 0.0, "top_logprobs": tokens}]}
    return Reply(json.dumps(body))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        [],
        {},
        {"prompt_tokens": 10**30, "completion_tokens": 10**30},
        {"prompt_tokens": None, "completion_tokens": "7"},
        {"prompt_tokens": -5, "completion_tokens": 2.5},
        {"prompt_tokens": True, "completion_tokens": float("nan")},
    ],
    ids=str,
)
def test_counts_that_are_none_count_nothing(usage, tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    with chat_server(lambda payload, number: with_usage(usage)) as server:
        (answer,) = vlm_at(server, journal).answer(QUESTION)
        assert vlm_at(server, journal).answer(QUESTION) == [answer]
        assert len(server.payloads) == 1
    assert (answer.text, answer.num_prompt_tokens, answer.num_tokens) == ("fine", 0, 0)
    pa.array([answer.num_tokens + answer.num_prompt_tokens], pa.int64())


def test_lone_surrogates_are_replaced_before_they_are_kept(tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    with chat_server(lambda payload, number: says("a \ud800 star \udfff")) as server:
        (answer,) = vlm_at(server, journal).answer(QUESTION)
        assert vlm_at(server, journal).answer(QUESTION) == [answer]
        assert len(server.payloads) == 1
    assert answer.text == "a ? star ?"
    pa.array([answer.text])


@pytest.mark.parametrize("content", [7, {"a": 1}, True])
def test_a_text_that_is_none_is_garbage(content):
    with chat_server(lambda payload, number: says(content)) as server, pytest.raises(RequestFailedError):
        vlm_at(server).answer(QUESTION)


def test_a_text_in_parts_is_put_together_without_its_thoughts():
    parts: Any = [
        {"type": "thinking", "thinking": [{"text": "hm"}]},
        {"type": "text", "text": "a "},
        {"type": "text", "text": "star"},
    ]
    with chat_server(lambda payload, number: says(parts)) as server:
        assert vlm_at(server).answer(QUESTION)[0].text == "a star"


def test_logprobs_that_are_none_do_not_count(tmp_path):
    top = [("Yes", -0.5), ("Yes", None), ("No", 1e6), ("no", float("nan")), ("Y", "x"), (None, -1.0), ("No", -1e300)]
    with chat_server(lambda payload, number: with_logprobs(top)) as server:
        vlm = vlm_at(server, StorageJournal(LocalStorage(tmp_path)))
        for _ in range(2):
            found = vlm.first_word_probabilities(QUESTION, ("Yes", "No"))
            assert found[0] == pytest.approx([np.exp(-0.5), 1.0])
        assert len(server.payloads) == 1
    with (
        chat_server(lambda payload, number: with_logprobs([("Yes", None)])) as server,
        pytest.raises(RequestFailedError),
    ):
        vlm_at(server).first_word_probabilities(QUESTION, ("Yes", "No"))


@pytest.mark.parametrize("body", ["[" * 100_000, '{"choices": ' + "[" * 100_000, '{"a":' * 100_000, "1" * 10_000])
def test_brackets_without_end_are_garbage(body):
    with chat_server(lambda payload, number: Reply(body)) as server, pytest.raises(RequestFailedError):
        vlm_at(server).answer(QUESTION)


@pytest.mark.parametrize(
    "body", [says("x" * (MAX_BODY + 1)).body.encode(), b" " * (MAX_BODY + 1)], ids=["said", "blank"]
)
def test_an_endless_answer_is_not_read_to_its_end(body):
    with (
        chat_server(lambda payload, number: Reply(body)) as server,
        pytest.raises(RequestFailedError, match="more than"),
    ):
        vlm_at(server).answer(QUESTION)


@pytest.mark.parametrize(("packed", "told"), [("gzip", "more than"), ("zstd", "nobody asked for")])
def test_an_answer_that_swells_is_not_unpacked(packed, told):
    body = gzip.compress(b"[" * 200_000_000, 1)
    reply = Reply(body, headers={"Content-Encoding": packed})
    with chat_server(lambda payload, number: reply) as server, pytest.raises(RequestFailedError, match=told):
        vlm_at(server).answer(QUESTION)


def test_a_small_packed_answer_is_read():
    reply = Reply(gzip.compress(says("fine").body.encode()), headers={"Content-Encoding": "gzip"})
    with chat_server(lambda payload, number: reply) as server:
        assert vlm_at(server).answer(QUESTION)[0].text == "fine"


@pytest.mark.parametrize("status", [200, 400, 429])
def test_an_answer_that_drips_has_a_deadline(status):
    reply = Reply(says("x" * 2000).body, status, drip_s=0.1)  # for more than three minutes
    started = time.monotonic()
    with chat_server(lambda payload, number: reply) as server, pytest.raises(Exception, match=r"lives|time"):
        vlm_at(server, timeout_s=0.5).answer(QUESTION)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"text": "x"},
        {"text": 7, "finished": True, "num_prompt_tokens": 1, "num_tokens": 1},
        {"text": "x", "finished": True, "num_prompt_tokens": 1, "num_tokens": 1, "more": 1, "finish": None}
        | {"finished": 1},
        {"text": "x", "finished": True, "num_prompt_tokens": 10**30, "num_tokens": 1},
        {"tokens": [["Yes", 1]]},
    ],
    ids=str,
)
def test_an_entry_that_does_not_read_is_asked_again(kept, tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    with chat_server(lambda payload, number: says("fine")) as server:
        (answer,) = vlm_at(server, journal).answer(QUESTION)
        (path,) = tmp_path.rglob("*.json")
        path.write_text(json.dumps(kept))
        assert vlm_at(server, journal).answer(QUESTION) == [answer]
        assert len(server.payloads) == 2
        assert vlm_at(server, journal).answer(QUESTION) == [answer]
        assert len(server.payloads) == 2


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_behaviour_costs_more_than_it_may_or_leaves_what_does_not_read(name, tmp_path, monkeypatch, capsys):
    """Bounded in time and memory; what is raised is an error that a stage knows what to do with; what is kept reads
    again, and is a text that a block can hold; a key is in none of it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    journal = StorageJournal(LocalStorage(tmp_path))
    started = time.monotonic()
    tracemalloc.start()
    said, told = [], ""
    try:
        with hostile_server(BEHAVIOURS[name]) as server:
            for _ in range(2):
                try:
                    said.append(vlm_at(server, journal, timeout_s=patience_s(name)).answer(QUESTION)[0])
                except (openai.OpenAIError, RequestFailedError) as error:
                    told += "".join(traceback.format_exception(error))
                    say_error(error)
            num_asked = server.num_asked
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.monotonic() - started < LONG_S / 2
    assert peak < 120 * 2**20
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert len(kept) < 2**20
    assert len(said) in (0, 2)
    if said:
        assert num_asked == 1
        assert said[0] == said[1]
        pa.array([said[0].text])
        pa.array([said[0].num_tokens + said[0].num_prompt_tokens], pa.int64())
        clean_text(said[0].text).text.encode()
    printed = capsys.readouterr().err
    assert KEY not in told + kept.decode() + printed
    assert not {"\x1b", "\x07", "\u202e"} & set(printed)


def test_there_are_twenty_behaviours_and_more():
    assert len(BEHAVIOURS) >= 20


def test_another_server_that_a_redirection_leads_to_gets_no_secret(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GATEWAY", "gateway-secret")
    with chat_server(lambda payload, number: says("fine")) as other:
        there = f"Location: {other.base_url}/chat/completions\r\n"
        with hostile_server(body("", "307 There", there)) as server:
            assert vlm_at(server, headers=("x-gateway=GATEWAY",)).answer(QUESTION)[0].text == "fine"
    (got,) = other.headers
    assert KEY not in str(got)
    assert "gateway-secret" not in str(got)


@pytest.mark.parametrize(
    "name", ["dripping headers", "a dripping first line", "silence", "a reset", "no HTTP", "a page"]
)
def test_a_probe_of_a_server_has_a_deadline(name):
    started = time.monotonic()
    lives = name in ("a page", "dripping headers")
    with hostile_server(BEHAVIOURS[name], lives=False) as server:
        assert answers(f"{server.base_url}/models", 60.0 if lives else 1.0) == lives
    with hostile_server(BEHAVIOURS[name]) as server:
        assert answers(f"{server.base_url}/models", 60.0)
    assert time.monotonic() - started < LONG_S / 2


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b'{"text": "fi',
        b"{}\n{}",
        b"[" * 100_000,
        b"null",
        b'{"text": NaN}',
        b"1" * 5000,
        b"\x00" * 100,
    ],
)
def test_a_journal_s_file_that_does_not_read_is_asked_again(damaged, tmp_path):
    journal = StorageJournal(LocalStorage(tmp_path))
    with chat_server(lambda payload, number: says("fine")) as server:
        vlm_at(server, journal).answer(QUESTION)
        (path,) = tmp_path.rglob("*.json")
        path.write_bytes(damaged)
        assert vlm_at(server, journal).answer(QUESTION)[0].text == "fine"
        assert len(server.payloads) == 2
