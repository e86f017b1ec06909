"""The picture of pairs takes subsets by turns, and pairs with a check and without."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.dataset.draw_pairs import draw, one_of_each_kind, true_by_the_judge
from microworld.scenes.world import Scene, SceneObject, random_background, render
from schemas.images import encode_png
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


def test_what_is_not_true_is_not_drawn(run):
    kinds = [(one.subset, one.meta["tag"]) for one in one_of_each_kind(run, is_true=lambda one: one.subset == "rule")]
    assert kinds == [("rule", "colors"), ("rule", "position"), ("rule", "counting")]


def test_a_reflection_is_true_where_the_judge_sees_what_it_says(run):
    is_true = true_by_the_judge()
    rule = next(
        one for one in decode_shard((run / "shards/genref_000000.tar").read_bytes(), "") if one.subset == "rule"
    )
    scene = Scene(random_background(np.random.default_rng(0)), (SceneObject("star", "red", 10.0, 16.0, 11.0),))
    image = encode_png(render([scene]).images[0])
    sample = replace(rule, bad_image=image, prompt="a photo of a star and a ring")
    assert is_true(replace(sample, reflection="Add a ring."))
    assert not is_true(replace(sample, reflection="Replace the circle by a ring."))
    assert not is_true(replace(sample, reflection="Add a ring. Make the star blue."))
