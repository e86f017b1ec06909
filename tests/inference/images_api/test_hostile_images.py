"""No server brings the client of images down, or makes it wait longer than it was told: raw sockets that misbehave."""

import time

import pytest

from inference.images_api import dialect
from inference.images_api.generator import ImagesApiGeneratorConfig
from schemas.errors import AccessError, RequestFailedError, TransientError
from tests.support.hostile_server import BEHAVIOURS, hostile_server

TIMEOUT_S = 1.0
SLOW = [name for name in BEHAVIOURS if any(word in name for word in ("dripping", "endless", "silence", "early"))]
QUICK = ["a dripping body", "an endless header", "silence"]  # of the slow ones: the others go the same way


@pytest.mark.parametrize("name", [name for name in BEHAVIOURS if name not in SLOW or name in QUICK])
def test_whatever_a_server_does_is_one_of_our_errors_and_in_time(name, monkeypatch):
    monkeypatch.setattr(dialect, "_left_out", {})
    with hostile_server(BEHAVIOURS[name]) as server:
        config = ImagesApiGeneratorConfig(server.base_url, "m", size_px=16, timeout_s=TIMEOUT_S, retries=0)
        generator = config.open()
        started = time.monotonic()
        with pytest.raises((RequestFailedError, TransientError, AccessError)):
            generator.generate(["a star"], [0])
        assert server.num_asked >= 1
    assert time.monotonic() - started < 30 * TIMEOUT_S
