"""What takes long is said before it begins, and that it goes on."""

import threading

import pytest

from schemas import telling as module
from schemas.telling import loading, telling


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
        assert third.wait(10)
    number = len(said)
    assert said[1] == "still loading micro/flux, 0 s"
    threading.Event().wait(0.1)
    assert len(said) == number


def test_a_long_line_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    with loading(["micro/flux", "micro/vlm", "micro/flux", "micro/sam"]):
        threading.Event().wait(0.2)
    first, again = capsys.readouterr().err.splitlines()[:2]
    assert first == "loading micro/flux, micro/vlm, micro/sam"
    assert again == "still loading micro/flux and 2 more, 0 s"


def test_an_error_inside_ends_it(capsys):
    before = threading.active_count()
    with pytest.raises(ValueError, match="no"), telling("reading"):
        raise ValueError("no")
    assert threading.active_count() == before
    assert capsys.readouterr().err == "reading\n"
