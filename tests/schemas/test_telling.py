"""What takes long is said before it begins, and that it goes on."""

import re
import threading

import pytest

from schemas import telling as module
from schemas.telling import loading, telling
from tests.support.processes import wait_until


def test_it_is_said_before_and_again_and_again_until_it_is_over(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    said: list[str] = []
    third = threading.Event()

    def tell(text):
        said.append(text)
        if len(said) == 3:
            third.set()

    with telling("loading micro/flux", tell):
        assert said == ["loading micro/flux"]
        assert third.wait(60)
    number = len(said)
    assert re.fullmatch(r"still loading micro/flux, \d+ s", said[1])
    threading.Event().wait(0.1)
    assert len(said) == number


def test_a_long_line_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    said: list[str] = []
    with loading(["micro/flux", "micro/vlm", "micro/flux", "micro/sam"]):
        wait_until(lambda: said.append(capsys.readouterr().err) or "still" in "".join(said))
    first, again = "".join([*said, capsys.readouterr().err]).splitlines()[:2]
    assert first == "loading micro/flux, micro/vlm, micro/sam"
    assert re.fullmatch(r"still loading micro/flux and 2 more, \d+ s", again)


def test_an_error_inside_ends_it(capsys):
    before = threading.active_count()
    with pytest.raises(ValueError, match="no"), telling("reading"):
        raise ValueError("no")
    assert threading.active_count() == before
    assert capsys.readouterr().err == "reading\n"
