"""Names of models: hub ids with a folder of the repository, and what is said of those that are not here."""

import pytest

from inference.model_store import KNOWN_MODELS, resolve_model
from schemas.errors import MissingWeightsError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with one repository, whose model lies two folders down."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--a-reflector"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd\n")
    folder = repository / "snapshots" / "0123abcd" / "infer" / "30000"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_hub_id_may_name_a_folder_of_its_repository(cache):
    assert resolve_model("someone/a-reflector/infer/30000") == cache
    assert resolve_model("someone/a-reflector/infer/30000/") == cache
    assert resolve_model("someone/a-reflector") == cache.parent.parent


@pytest.mark.parametrize("name", ["someone/a-reflector/infer/40000", "someone/another/infer/30000"])
def test_a_folder_that_is_not_there_says_how_to_fetch_it(cache, name):
    with pytest.raises(MissingWeightsError) as caught:
        resolve_model(name)
    repository, folder = name.split("/infer/")
    assert f"hf download {repository} --include 'infer/{folder}/*'" in str(caught.value)


@pytest.mark.parametrize("name", ["someone/a-reflector/../../../refs", "../someone/a-reflector"])
def test_a_name_never_leads_out_of_its_repository(cache, name):
    with pytest.raises(MissingWeightsError):
        resolve_model(name)


@pytest.mark.parametrize("name", ["diffusion-cot/FLUX-Corrector", "diffusion-cot/Reflection-Generator/infer/30000"])
def test_the_published_weights_are_known_by_size_and_licence(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=KNOWN_MODELS[name].size) as caught:
        resolve_model(name)
    assert KNOWN_MODELS[name].licence in str(caught.value)
