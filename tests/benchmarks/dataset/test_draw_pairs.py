"""The picture of pairs takes subsets by turns, and pairs with a check and without."""

from dataclasses import replace

import pytest

from benchmarks.dataset.draw_pairs import draw, one_of_each_kind
from schemas.shards import decode_shard, encode_shard
from tests.support.micro_shards import write_micro_shards

CHECK = {"correct": False, "objects": [{"box": [2, 3, 12, 14]}], "reasons": [], "score": 0.0}


@pytest.fixture
def run(tmp_path):
    """Rule pairs of three tags with checks, editing pairs without."""
    path = write_micro_shards(tmp_path / "shards", count=8, per_shard=8) / "genref_000000.tar"
    samples = decode_shard(path.read_bytes(), "shard")
    for number, sample in enumerate(samples):
        meta = {"tag": None, "bad": {"check": None}, "good": {"check": None}}
        if sample.subset == "rule":
            tag = ("colors", "colors", "position", "counting")[number // 2]
            meta = {"tag": tag, "bad": {"check": CHECK}, "good": {"check": CHECK | {"correct": True}}}
        samples[number] = replace(sample, meta=meta)
    path.write_bytes(encode_shard(samples))
    return tmp_path


def test_subsets_take_turns_and_a_tag_comes_once(run):
    kinds = [(sample.subset, sample.meta["tag"]) for sample in one_of_each_kind(run, limit=3)]
    assert kinds == [("editing", None), ("rule", "colors"), ("rule", "position")]
    assert len(one_of_each_kind(run, limit=6)) == 4


def test_pairs_without_a_check_are_drawn_too(run, tmp_path):
    draw(one_of_each_kind(run), tmp_path / "pairs.png")
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
