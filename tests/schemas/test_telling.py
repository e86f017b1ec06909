"""What takes long is said before it begins, and that it goes on."""

import threading

import pytest

from schemas import telling as module
from schemas.telling import telling


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
    assert said[1].startswith("loading micro/flux: ")
    assert said[1].endswith(" s so far")
    threading.Event().wait(0.1)
    assert len(said) == number


def test_an_error_inside_ends_it(capsys):
    before = threading.active_count()
    with pytest.raises(ValueError, match="no"), telling("reading"):
        raise ValueError("no")
    assert threading.active_count() == before
    assert capsys.readouterr().err == "reading\n"
