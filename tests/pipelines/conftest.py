import shutil

import pytest

from tests.support import toy_runs


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A toy run that went through without trouble. Not to be changed."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    assert toy_runs.run(path)
    return path


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A finished toy run of the test's own."""
    return shutil.copytree(undisturbed, tmp_path / "finished")


@pytest.fixture
def calls_file(tmp_path, monkeypatch):
    """Where the toy's stages note their calls."""
    path = tmp_path / "calls.txt"
    monkeypatch.setenv("TOY_CALLS", str(path))
    return path
