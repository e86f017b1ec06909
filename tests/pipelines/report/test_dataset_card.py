"""The dataset card: figures that add up, a page the hub reads, and an upload that can be repeated."""

import json

import numpy as np
import pytest
import yaml

from commands.push import push
from pipelines.conservation import tally
from pipelines.report.dataset_card import write_card
from pipelines.report.statistics import dataset_figures, difference_hash, num_similar
from schemas.errors import WorkFailedError
from tests.support.recorded_hub import Hub
from tests.support.toy_job import ToyConfig, open_run
from tests.support.toy_runs import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "run"
    assert run(path, ToyConfig(num_prompts=24))
    return path


def test_figures_are_those_of_the_run(finished):
    folder, config = open_run(str(finished))
    figures, counts = dataset_figures(folder, config), tally(folder, config)
    (of,) = figures.subsets.values()
    assert of.prompts == counts.prompts
    assert {k: v for k, v in of.pairs.items() if v} == {k: v for k, v in counts.pairs.items() if v}
    assert of.prompt_reasons == counts.reasons
    assert sum(figures.words.values()) == counts.pairs["shipped"] > 0
    assert figures.annotators == {"rule": counts.pairs["shipped"]}
    assert figures.cost == counts.cost
    assert figures.agreement("left") is None


def test_the_card_has_a_head_that_the_hub_reads_and_figures_beside_it(finished):
    folder, config = open_run(str(finished))
    path = write_card(folder, config)
    text = (finished / "card" / "README.md").read_text()
    assert path.endswith("card/README.md")
    head, _, body = text.removeprefix("---\n").partition("---\n")
    values = yaml.safe_load(head)
    assert values["size_categories"] == ["n<1K"]
    assert "webdataset" in values["tags"]
    for picture in ("outcomes", "reflection_lengths"):
        assert f"({picture}.svg)" in body
        assert (finished / "card" / f"{picture}.svg").read_text().lstrip().startswith("<?xml")
    statistics = json.loads((finished / "card" / "statistics.json").read_text())
    shipped = tally(folder, config).pairs["shipped"]
    assert sum(of["pairs"]["shipped"] for of in statistics["subsets"].values()) == shipped
    assert f"{shipped:,} triplets" in body


def test_equal_runs_have_equal_cards(finished):
    folder, config = open_run(str(finished))
    write_card(folder, config)
    first = {p.name: p.read_bytes() for p in (finished / "card").iterdir()}
    write_card(folder, config)
    assert {p.name: p.read_bytes() for p in (finished / "card").iterdir()} == first


def test_similar_images_are_counted_once_each():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (32, 32, 3), np.uint8) for _ in range(6)]
    nearly = np.clip(images[0].astype(int) + 2, 0, 255).astype(np.uint8)
    hashes = [difference_hash(image) for image in [*images, nearly, images[3]]]
    assert num_similar(hashes) == 2
    assert num_similar([0b0, 0b1111, 0b11111]) == 2
    assert num_similar([0, 0b11111]) == 0


def brute(hashes):
    return sum(any((a ^ b).bit_count() <= 4 for b in hashes[:i]) for i, a in enumerate(hashes))


def test_buckets_find_all_that_comparing_all_finds():
    rng = np.random.default_rng(1)
    hashes = [int(v) for v in rng.integers(0, 2**62, 60)]
    hashes += [h ^ sum(1 << int(bit) for bit in rng.integers(0, 64, rng.integers(1, 8))) for h in hashes]
    assert num_similar(hashes) == brute(hashes) > 20


def test_push_sends_every_shard_and_the_card_to_the_root(finished):
    folder, config = open_run(str(finished))
    write_card(folder, config)
    hub = Hub()
    number = push(hub, folder, "me/pairs", private=True)
    assert number == len(hub.files)
    assert hub.repos == [("me/pairs", {"repo_type": "dataset", "private": True, "exist_ok": True})]
    assert hub.files["README.md"] == (finished / "card" / "README.md").read_bytes()
    for shard in (finished / "shards").iterdir():
        assert hub.files[f"shards/{shard.name}"] == shard.read_bytes()


def test_a_hub_that_refuses_is_told(finished):
    folder, _ = open_run(str(finished))
    with pytest.raises(WorkFailedError, match="no connection"):
        push(Hub(fails=True), folder, "me/pairs", private=True)
