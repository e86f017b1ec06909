"""A real browser for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def real_browser() -> Iterator[object]:
    """Chromium, under playwright. A test without one fails: pages are for people."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is part of the dev extra")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail(f"no browser on PATH (looked for {', '.join(NAMES)}): `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
