"""Edits for prompts that ask for much: what is told is what is mended, and nothing else changes."""

import numpy as np
import pytest

from microworld.scenes.compositions import KINDS, is_reserved_composition, sample_composition
from microworld.scenes.instructions import parse_instruction, split_sentences
from microworld.scenes.world import Background, Scene, SceneObject, render
from microworld.training.composition_edits import (
    free_composition,
    meets,
    partly_mended,
    repaired,
    spoilt,
    told_of,
    wanted_objects,
)
from microworld.training.pixel_scorer import read_scene
from microworld.training.repairs import paint_over

GREY = Background("plain", (140, 140, 140), (140, 140, 140))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_is_what_is_mended(kind):
    rng, told, num_spoilt, num_left = np.random.default_rng(1), [], 0, 0
    for _ in range(40):
        record = sample_composition(rng, kind)
        right = Scene(GREY, tuple(wanted_objects(rng, record)))
        assert meets(record, right)
        assert told_of(record, right, right) == ""
        assert repaired(rng, record, right) is None
        wrong = spoilt(rng, right)
        if wrong.objects == right.objects:
            continue
        num_spoilt += 1
        after, num_edits = partly_mended(rng, wrong, right)
        if said := told_of(record, wrong, after, num_edits):
            assert len(split_sentences(said)) >= num_edits
            told += split_sentences(said)
            num_left += not meets(record, after)
            stayed = [item for item in wrong.objects if item in right.objects]
            assert all(item in after.objects for item in stayed)
            whole = repaired(rng, record, wrong)
            assert whole is not None
            assert meets(record, whole)
    assert len(told) >= num_spoilt / 2
    if kind.startswith("four"):
        assert num_left > 0  # of several things wrong, one is mended
    read = [parse_instruction(sentence) is not None for sentence in told]
    assert np.mean(read) > 0.8, [s for s, known in zip(told, read, strict=True) if not known][:5]


def test_what_breaks_something_else_is_not_told():
    rng = np.random.default_rng(4)
    record = sample_composition(rng, "three_plain")
    right = Scene(GREY, tuple(wanted_objects(rng, record)))
    first, second, third = right.objects
    assert told_of(record, Scene(GREY, (first, second)), right) != ""
    assert told_of(record, Scene(GREY, (first, second)), Scene(GREY, (first, third))) == ""


def test_a_repair_keeps_what_is_right_and_moves_what_is_elsewhere():
    rng = np.random.default_rng(2)
    record = sample_composition(rng, "three_plain")
    first, second, third = wanted_objects(rng, record)
    elsewhere = SceneObject(third.shape, "red", *_free_corner(first, second, third), third.size)
    before = Scene(GREY, (first, second, elsewhere))
    after = repaired(rng, record, before)
    assert after is not None
    assert after.objects[:2] == (first, second)
    assert (after.objects[2].shape, after.objects[2].color) == (third.shape, "red")
    assert meets(record, after)
    image = render([before]).images[0]
    assert meets(record, read_scene(paint_over(image, before, after)))


def test_no_benchmark_s_objects_are_trained_on():
    rng = np.random.default_rng(3)
    assert not any(is_reserved_composition(free_composition(rng)) for _ in range(200))


def _free_corner(*items):
    corners = {(x, y) for x in (8.5, 23.5) for y in (8.5, 23.5)}
    taken = {(8.5 if item.cx < 16 else 23.5, 8.5 if item.cy < 16 else 23.5) for item in items}
    (free,) = corners - taken
    return free
