"""A trained reflector is asked in the words that it was trained in; what is known otherwise is said once."""

import hashlib
import json
import logging

import numpy as np
import pytest

from inference.interfaces import ChatAnswer
from inference.vlm import reflector_words
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.prompts import load_prompt
from inference.vlm.reflector_words import PUBLISHED, words_of, write_words
from microworld.family import micro_vlm
from schemas.errors import InputError

PUBLISHED_NAME = next(iter(PUBLISHED))


@pytest.fixture(autouse=True)
def said(caplog):
    reflector_words._say.cache_clear()
    caplog.set_level(logging.WARNING, reflector_words.__name__)
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_folder_says_the_words_and_a_template_by_name_overrides_them(tmp_path, said):
    write_words(tmp_path, 'Sag, was an "{prompt}" fehlt.\n')
    assert words_of(str(tmp_path)) == 'Sag, was an "{prompt}" fehlt.\n'
    assert words_of(str(tmp_path), "micro/reflect") == load_prompt("micro/reflect")
    assert not said()


def test_the_shipped_reflector_is_asked_as_it_was_trained(said):
    assert words_of("micro/reflector") == load_prompt("micro/reflect")
    assert not said()


def test_without_its_words_it_is_asked_in_ours_which_is_said_once(tmp_path, said):
    assert words_of(str(tmp_path)) == words_of(str(tmp_path)) == load_prompt("reflect")
    (warning,) = said()
    assert "reflector.json" in warning
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "micro/vlm"}))
    assert words_of(str(tmp_path)) == load_prompt("micro/reflect")  # of its own family


def test_a_published_reflectors_words_are_compared_with_those_that_are_known(tmp_path, said, monkeypatch):
    brought = tmp_path / "words.txt"
    brought.write_text("Which words? {prompt}\n")
    assert words_of(f"{PUBLISHED_NAME}/infer/30000", str(brought)).startswith("Which words?")
    (warning,) = said()
    assert "SHA-256" in warning
    right = hashlib.sha256(b"Which words? {prompt}").hexdigest()
    monkeypatch.setitem(PUBLISHED, PUBLISHED_NAME, right)
    reflector_words._say.cache_clear()
    words_of(PUBLISHED_NAME, str(brought))
    assert len(said()) == 1  # nothing more


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"template": 3}', '{"template": "no place"}'])
def test_words_that_do_not_read_are_refused(tmp_path, text):
    (tmp_path / "reflector.json").write_text(text)
    with pytest.raises(InputError, match=r"reflector\.json"):
        words_of(str(tmp_path))


def test_a_critic_asks_its_trained_reflector_in_those_words_and_itself_in_its_own(monkeypatch):
    class Hears:
        def __init__(self, config):
            self.name = config.name

        def answer(self, requests):
            heard.extend((self.name, request.text) for request in requests)
            return [ChatAnswer("Add a ring.", True, 1, 1) for _ in requests]

    monkeypatch.setattr("inference.vlm.vlm.VlmConfig.open", lambda self, journal=None: Hears(self))
    image = np.zeros((4, 4, 3), np.uint8)
    for config, asked in (
        (VlmCriticConfig(micro_vlm(), "micro/reflector"), ("micro/reflector", load_prompt("micro/reflect"))),
        (VlmCriticConfig(micro_vlm(), reflect="reflect"), ("micro/vlm", load_prompt("reflect"))),
        (
            VlmCriticConfig(micro_vlm(), "micro/reflector", reflector_prompt="reflect"),
            ("micro/reflector", load_prompt("reflect")),
        ),
    ):
        heard: list[tuple[str, str]] = []
        config.open().remark([image], ["a star"], ["a star"], [0.0], reflect=True, refine=False)
        assert heard == [(asked[0], asked[1].replace("{prompt}", "a star"))]
