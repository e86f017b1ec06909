"""No server brings the client of images down, or makes it wait longer than it was told: raw sockets that misbehave."""

import time

import pytest

from inference.images_api import dialect
from inference.images_api.generator import ImagesApiGeneratorConfig
from schemas.errors import AccessError, RequestFailedError, TransientError
from tests.support.hostile_server import BEHAVIOURS, LONG_S, NEVER_END, hostile_server, patience_s
from tests.support.processes import wait_until

SOME = ["a dripping body", "an endless header", "silence"]  # of those that never end: the others go the same way


@pytest.mark.parametrize("name", [name for name in BEHAVIOURS if name not in NEVER_END or name in SOME])
def test_whatever_a_server_does_is_one_of_our_errors_and_in_time(name, monkeypatch):
    monkeypatch.setattr(dialect, "_left_out", {})
    with hostile_server(BEHAVIOURS[name]) as server:
        config = ImagesApiGeneratorConfig(server.base_url, "m", size_px=16, timeout_s=patience_s(name), retries=0)
        generator = config.open()
        started = time.monotonic()
        with pytest.raises((RequestFailedError, TransientError, AccessError)):
            generator.generate(["a star"], [0])
        took_s = time.monotonic() - started
        wait_until(lambda: server.num_asked >= 1)
    assert took_s < LONG_S / 2
