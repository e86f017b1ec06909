"""A VLM that answers something else than yes or no: an odd image's row is put aside, and where all are odd the run
stops. The VLM is an endpoint over HTTP."""

import json

import numpy as np
import pytest

from inference.vlm.endpoint import EndpointConfig, EndpointVlm
from inference.vlm.yes_no_verifier import YesNoVerifier
from pipelines.runtime.failures import FailurePolicy, execute
from pipelines.stages.filter_pairs import FilterPairs, FilterPairsConfig
from schemas.errors import OutageError
from tests.support.chat_server import Reply, chat_server, says, text_of
from tests.support.vlm_rows import paired_row


def verifier(server):
    return YesNoVerifier(EndpointVlm(EndpointConfig(server.base_url, "m", concurrency=2)), "Does it show {prompt}?")


def answers(is_odd):
    def answer(payload, number):
        word = "<think>" if is_odd(text_of(payload)) else "Yes"
        body = json.loads(says(word).body)
        top = [{"token": word, "logprob": float(np.log(0.96))}, {"token": "No", "logprob": float(np.log(0.03))}]
        body["choices"][0]["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return Reply(json.dumps(body))

    return chat_server(answer)


def stage_at(server):
    stage = FilterPairs(FilterPairsConfig(min_margin=-1.0), 0)
    stage.verifier = verifier(server)
    return stage


def test_one_odd_image_is_a_row_s_failure_and_the_others_are_scored():
    rows = [paired_row(n, text="an odd star" if n == 2 else "a star") for n in range(5)]
    with answers(lambda text: "odd" in text) as server:
        done, failures = execute(stage_at(server), rows, FailurePolicy())
    assert [row.quarantine is None for row in done] == [True, True, False, True, True]
    assert (
        "m does not answer Yes or No to 'Does it show an odd star?', but begins with '<think>' (0.96)"
        in failures[0].error
    )
    assert "enable_thinking" in failures[0].error
    assert done[0].pairs[0].good_score == pytest.approx(np.log(0.96 / 0.03), abs=1e-3)


def test_a_model_that_never_answers_stops_the_run_early():
    rows = [paired_row(n, text="a star") for n in range(24)]
    with answers(lambda text: True) as server, pytest.raises(OutageError, match=r"(?s)8 rows failed.*<think>.*0\.05"):
        execute(stage_at(server), rows, FailurePolicy())
