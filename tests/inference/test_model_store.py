"""Names of models: hub ids with a folder of the repository, and what is said of those that are not here."""

import re
import shlex
from pathlib import Path

import pytest

from inference.model_store import KNOWN_MODELS, fetch_line, fetch_lines, resolve_model
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


@pytest.mark.parametrize(
    "name", ["./models/nope", "/models/nope", "~/nope", "../nope", "nope", "runs/nope", "runs/mine/nope", "s3://b/nope"]
)
def test_a_path_of_nothing_is_no_hub_id(cache, monkeypatch, name):
    (cache / "runs").mkdir()
    monkeypatch.chdir(cache)
    with pytest.raises(MissingWeightsError, match="there is no such file or folder") as caught:
        resolve_model(name)
    assert "hf download" not in str(caught.value)
    with pytest.raises(MissingWeightsError, match="no such file or folder"):  # `plan --fetch | bash`
        fetch_lines([name])


def test_a_published_model_is_one_whatever_folders_are_here(cache, monkeypatch):
    (cache / "Qwen").mkdir()
    monkeypatch.chdir(cache)
    assert fetch_lines(["Qwen/Qwen-Image"]) == ["hf download Qwen/Qwen-Image"]


def test_a_misspelt_shipped_name_says_what_there_is():
    with pytest.raises(MissingWeightsError, match=r"one that is there \(.*reflector, .*\)"):
        resolve_model("micro/refector")
    with pytest.raises(MissingWeightsError, match="micro/refector"):
        fetch_lines(["micro/refector"])


@pytest.mark.parametrize("name", ["diffusion-cot/FLUX-Corrector", "diffusion-cot/Reflection-Generator/infer/30000"])
def test_the_published_weights_are_known_by_size_and_licence(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=KNOWN_MODELS[name].size) as caught:
        resolve_model(name)
    assert KNOWN_MODELS[name].licence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "read", "left"),
    [
        (
            "black-forest-labs/FLUX.1-dev",
            ["model_index.json", "transformer/diffusion_pytorch_model-00001-of-00003.safetensors", "vae/config.json"],
            ["flux1-dev.safetensors", "ae.safetensors", "dev_grid.jpg"],
        ),
        (
            "openai/clip-vit-large-patch14",
            ["config.json", "merges.txt", "model.safetensors"],
            ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"],
        ),
        ("google-bert/bert-base-uncased", ["config.json", "tokenizer.json", "vocab.txt"], ["model.safetensors"]),
        ("diffusion-cot/Reflection-Generator/infer/30000", ["infer/30000/config.json"], ["infer/20000/config.json"]),
        ("Qwen/Qwen2.5-VL-7B-Instruct", ["config.json", "model-00001-of-00005.safetensors"], []),
    ],
)
def test_only_what_is_read_is_fetched(name, read, left):
    """By the rule of the hub's own client."""
    from huggingface_hub.utils import filter_repo_objects

    words = shlex.split(fetch_line(name))
    assert words[:3] == ["hf", "download", "/".join(name.split("/")[:2])]
    patterns = words[4::2]
    assert words[3::2] == ["--include"] * len(patterns)
    assert list(filter_repo_objects([*read, *left], allow_patterns=patterns or None)) == read


def test_the_guide_fetches_as_the_message_says():
    page = (Path(__file__).parents[2] / "docs" / "presets.md").read_text()
    lines = re.findall(r"\| `(hf download \S+/[^`]+)`", page)
    known = {tuple(shlex.split(fetch_line(name))) for name in KNOWN_MODELS}
    assert len(lines) > 10
    assert [line for line in lines if tuple(shlex.split(line)) not in known] == []


def test_files_are_looked_for_in_the_folder_of_weights(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam_vit_h_4b8939.pth").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingWeightsError):
        resolve_model("sam_vit_h_4b8939.pth")
    assert fetch_lines(["sam_vit_h_4b8939.pth", "sam_vit_h_4b8939.pth"])[1:] == []
    monkeypatch.setenv("REFLECTIONFLOW_WEIGHTS", str(tmp_path / "weights"))
    assert resolve_model("sam_vit_h_4b8939.pth") == tmp_path / "weights" / "sam_vit_h_4b8939.pth"
    assert fetch_lines(["sam_vit_h_4b8939.pth"]) == []
