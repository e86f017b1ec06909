"""NVILA's verifier: its ranking, and that its folder's code runs when it is told to, and else not."""

import json
import math

import numpy as np
import pytest

from commands.main import main
from inference.verifier import VerifierConfig
from inference.vlm.nvila_verifier import NvilaVerifierConfig, rank_score
from inference.vlm.vlm import VlmConfig
from schemas.configuration import model_names
from schemas.errors import InputError, WorkFailedError
from schemas.images import encode_png
from tests.support.chat_server import Reply, chat_server, says, text_of
from tests.support.yes_no_model import write_yes_no_model

HERE = VlmConfig(kind="in-process", dtype="float32", device="cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_yes_no_model(tmp_path / "model")


def colour(red, green, blue):
    return np.full((8, 8, 3), (red, green, blue), np.uint8)


YES_SURE, YES_LESS, YES_BARELY = colour(250, 0, 200), colour(101, 0, 200), colour(3, 0, 200)
NO_BARELY, NO_SURE = colour(0, 90, 0), colour(0, 240, 0)
IN_ORDER = [YES_SURE, YES_LESS, YES_BARELY, NO_BARELY, NO_SURE]


def test_all_yes_by_falling_score_then_all_no_by_rising_score(folder):
    shuffled = [IN_ORDER[i] for i in (3, 1, 4, 0, 2)]
    config = NvilaVerifierConfig(model=str(folder), trust_remote_code=True, vlm=HERE)
    verifier = config.open()
    opinions = verifier.verify(shuffled, ["a star"] * 5)
    scores = np.array([one.score for one in opinions])
    assert [shuffled[i].tolist() for i in np.argsort(-scores)] == [image.tolist() for image in IN_ORDER]
    assert sum(one.cost.verifier_calls for one in opinions) == 5
    assert verifier._model.asked[0] == "a star"  # pyright: ignore[reportAttributeAccessIssue]
    asking = NvilaVerifierConfig(model=str(folder), trust_remote_code=True, template="yes_no_match", vlm=HERE).open()
    asking.score([NO_SURE], ["a star"])
    assert asking._model.asked[0].startswith("An image generator was asked for: a star\n")  # pyright: ignore


def test_code_of_a_model_does_not_run_unless_it_is_told_to(folder, capsys):
    (folder.parent / "image.png").write_bytes(encode_png(YES_SURE))
    argv = ["score", "a star", str(folder.parent / "image.png"), "--kind", "nvila", "--verifier", str(folder), "--json"]
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "it would run in this process, with all your rights" in said.err
    assert "--trust-remote-code" in said.err
    with pytest.raises(InputError, match="with all your rights"):
        VerifierConfig(("nvila",), nvila=NvilaVerifierConfig(model=str(folder))).only_what_is_used(HERE)
    assert not (folder / "went_off").exists()
    assert main([*argv, "--trust-remote-code"]) == 0
    assert (folder / "went_off").exists()
    (row,) = json.loads(capsys.readouterr().out)
    assert row["score"] == pytest.approx(rank_score(True, 150.0))


def test_code_that_does_not_run_here_says_what_else_there_is(folder):
    (folder / "modeling_yes_no.py").write_text("from transformers import gone_since_446")
    config = NvilaVerifierConfig(model=str(folder), trust_remote_code=True, vlm=HERE)
    with pytest.raises(WorkFailedError, match="does not run under this transformers: ImportError"):
        config.open()


def test_ranks_never_round_to_one_value():
    logits = [-3e4, -1000, -90.5, -90, -1, -0.5, 0, 0.5, 1, 17, 17.5, 40, 40.5, 3e4]
    yes = np.array([rank_score(True, one) for one in logits], np.float32)
    no = np.array([rank_score(False, one) for one in logits], np.float32)
    assert (np.diff(yes) > 0).all()
    assert (np.diff(no) < 0).all()
    assert no.max() < 0 < yes.min()


SAYS = {"p0": (0.8, 0.1), "p1": (0.51, 0.4), "p2": (0.45, 0.5), "p3": (0.1, 0.9)}
"""What a server gives for yes and for no."""


def test_an_endpoint_is_ranked_by_the_likelier_word():
    def answer(payload, number):
        body = json.loads(says("yes").body)
        first = [
            {"token": word, "logprob": math.log(p), "bytes": None}
            for word, p in zip(("Yes", "no"), SAYS[text_of(payload)], strict=True)
        ]
        body["choices"][0]["logprobs"] = {
            "content": [{"token": "yes", "logprob": -1.0, "bytes": None, "top_logprobs": first}]
        }
        return Reply(json.dumps(body))

    with chat_server(answer) as server:
        config = NvilaVerifierConfig(kind="endpoint", base_url=server.base_url, endpoint_model="nvila")
        verifier = VerifierConfig(("nvila",), nvila=config).only_what_is_used(HERE).open()
        scores = verifier.score([NO_SURE] * 4, ["p1", "p3", "p0", "p2"])
        assert verifier.score([], []).tolist() == []
    assert np.argsort(-scores).tolist() == [2, 0, 3, 1]
    assert scores[0] > 0 > scores[3]
    assert scores[2] == pytest.approx(rank_score(True, math.log(0.8)), rel=1e-5)


def test_an_endpoint_needs_a_name_and_no_weights():
    with pytest.raises(InputError, match="without address or name"):
        NvilaVerifierConfig(kind="endpoint", base_url="http://127.0.0.1:1/v1").open()
    config = NvilaVerifierConfig(kind="endpoint", base_url="http://127.0.0.1:1/v1", endpoint_model="nvila")
    assert model_names(config.only_what_is_used()) == ()
    config.open()
