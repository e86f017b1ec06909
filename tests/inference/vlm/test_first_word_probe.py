"""An endpoint without log-probabilities is known before a run begins, by one short question."""

import json
import math

import pytest

from commands.main import main
from inference.rewards.vqa_score import VqaScoreConfig
from inference.verifier import VerifierConfig
from inference.vlm.first_word_probe import probe_first_words
from inference.vlm.prompted_verifier import PromptedVerifierConfig
from inference.vlm.vlm import VlmConfig
from inference.vlm.yes_no_verifier import YesNoVerifierConfig
from schemas.errors import AccessError
from tests.support.chat_server import Reply, chat_server, fails, says


def without(payload, number):
    """As servers do that pass over `logprobs`."""
    return says("Yes, it is.")


def refusing(payload, number):
    said = {"message": "logprobs are not supported by this model", "param": "logprobs", "code": "unsupported"}
    return Reply(json.dumps({"error": said}), 400) if "logprobs" in payload else says("Yes")


def with_them(payload, number):
    body = json.loads(says("Yes").body)
    tokens = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in (("Yes", 0.9), ("No", 0.1))]
    body["choices"][0]["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    return Reply(json.dumps(body))


def vlm_at(server):
    return VlmConfig(kind="endpoint", model="", endpoint_model="m", base_url=server.base_url)


@pytest.mark.parametrize("answer", [without, refusing])
@pytest.mark.parametrize(
    ("config", "instead"),
    [
        (lambda vlm: VerifierConfig(vlm=YesNoVerifierConfig(vlm)), "`verifier.kinds prompted`"),
        (VqaScoreConfig, "leave it out"),
    ],
    ids=["verifier", "reward"],
)
def test_what_to_do_is_said_after_one_question(answer, config, instead):
    with chat_server(answer, models=("m",)) as server:
        with pytest.raises(AccessError) as caught:
            probe_first_words(config(vlm_at(server)))
        assert len(server.payloads) == 1
    assert "m at http" in str(caught.value)
    assert "no log-probabilities" in str(caught.value)
    assert instead in str(caught.value)


def test_servers_that_give_them_and_verifiers_that_need_none_are_let_pass():
    with chat_server(with_them, models=("m",)) as server:
        probe_first_words(VerifierConfig(vlm=YesNoVerifierConfig(vlm_at(server))))
        assert len(server.payloads) == 1
        asked = [server.payloads[0]["logprobs"], len(server.payloads[0]["messages"][0]["content"])]
        assert asked == [True, 1]
    with chat_server(without, models=("m",)) as server:
        probe_first_words(PromptedVerifierConfig(vlm_at(server)))
        probe_first_words(VerifierConfig())
        assert not server.payloads


@pytest.mark.parametrize("answer", [lambda payload, number: fails(503), lambda payload, number: Reply("<html>")])
def test_an_endpoint_that_is_busy_or_broken_is_the_run_s_own_matter(answer):
    with chat_server(answer, models=("m",)) as server:
        probe_first_words(VerifierConfig(vlm=YesNoVerifierConfig(vlm_at(server))))
    probe_first_words(VerifierConfig(vlm=YesNoVerifierConfig(vlm_at(server))))  # nobody is there


def test_a_search_is_not_begun(tmp_path, capsys):
    run = tmp_path / "run"
    with chat_server(without, models=("m",)) as server:
        there = ("--vlm.model", "", "--vlm.endpoint-model", "m", "--vlm.base-url", server.base_url)
        assert main(["search", "--run", str(run), "--preset", "micro-paper", *there]) == 2
        assert len(server.payloads) == 1
    assert "no log-probabilities" in capsys.readouterr().err
    assert not run.exists()
