"""What the card says loads the shards: its own lines are run, on runs of every kind and order of samples."""

import json
import os
import re

import pytest

from commands.push import push
from pipelines.report.dataset_card import write_card
from schemas.shards import decode_shard, encode_shard
from tests.support.recorded_hub import Hub
from tests.support.toy_job import ToyConfig, open_run
from tests.support.toy_runs import run

COT = {"analysis": "a", "good_side": "left", "verdict": "left", "instruction": "b", "annotator": "x"}
ORDERS = {
    "none": lambda number: False,
    "the first alone": lambda number: number == 0,
    "after the first five": lambda number: number >= 5,
    "every other": lambda number: number % 2 == 0,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "run"
    assert run(path, ToyConfig(num_prompts=24))
    return path


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Also for what was imported before."""
    import datasets

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pushed(finished, folder, compared):
    """The run as `push` lays it out, each sample with its own `cot.json` and `meta.json`. Returns the samples."""
    run, config = open_run(str(finished))
    write_card(run, config)
    hub, written = Hub(), []
    push(hub, run, "me/pairs", private=True)
    for name, data in hub.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".tar"):
            samples = decode_shard(data, name)
            for number, sample in enumerate(samples):
                if number % 3 == 0:  # what another subset's pairs have besides
                    sample.meta.update(difficulty=None, good_score=1.5, rewards={"clip": 0.5}, include=[])
                samples[number] = type(sample)(**{**vars(sample), "cot": COT if compared(number) else None})
            written += samples
            data = encode_shard(samples)
        path.write_bytes(data)
    assert len(written) > 6
    return written


@pytest.mark.parametrize("compared", ORDERS.values(), ids=ORDERS)
def test_the_lines_of_the_card_load_every_run(compared, finished, tmp_path, monkeypatch):
    written = pushed(finished, tmp_path, compared)
    (lines,) = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    check(list(names["pairs"]), written)


@pytest.mark.parametrize("streaming", [True, False])
def test_what_push_uploads_loads_by_its_name_alone(streaming, finished, tmp_path):
    import datasets

    written = pushed(finished, tmp_path, ORDERS["every other"])
    loaded = datasets.load_dataset(os.fspath(tmp_path), split="train", streaming=streaming)
    check(list(loaded), written)


def check(rows, written):
    assert len(rows) == len(written)
    for row, sample in zip(rows, written, strict=True):
        assert row["prompt.txt"] == sample.prompt
        assert rounded(row["meta.json"]) == rounded(sample.meta)
        assert row["cot.json"] == sample.cot
        assert row["good_image.png"].size == (8, 8)  # as the toy packs them


def rounded(meta):
    """`datasets` keeps nine digits of a number in JSON."""
    return json.loads(json.dumps(meta), parse_float=lambda text: round(float(text), 6))


def test_every_sample_of_a_run_has_the_same_members(finished):
    import tarfile

    members: dict[str, list[str]] = {}
    for shard in sorted((finished / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                key, _, member = name.partition(".")
                members.setdefault(f"{shard.name}/{key}", []).append(member)
    assert len(members) > 6
    assert len({tuple(names) for names in members.values()}) == 1
    assert "cot.json" in next(iter(members.values()))
    index = json.loads((finished / "shards" / "index.json").read_text())
    assert index["num_samples"] == len(members)
