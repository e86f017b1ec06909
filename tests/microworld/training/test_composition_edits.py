"""Edits for prompts that ask for much: what is told is what fails, and the edited image has all that is asked for."""

import numpy as np
import pytest

from microworld.scenes.compositions import KINDS, is_reserved_composition, sample_composition
from microworld.scenes.instructions import parse_instruction, split_sentences
from microworld.scenes.world import Background, Scene, SceneObject, render
from microworld.training.composition_edits import (
    free_composition,
    instruction_for,
    meets,
    repaired,
    spoilt,
    wanted_objects,
)
from microworld.training.pixel_scorer import read_scene
from microworld.training.repairs import paint_over

GREY = Background("plain", (140, 140, 140), (140, 140, 140))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wanted_meets_the_prompt_and_what_is_spoilt_is_told(kind):
    rng, told = np.random.default_rng(1), []
    for _ in range(30):
        record = sample_composition(rng, kind)
        right = Scene(GREY, tuple(wanted_objects(rng, record)))
        assert meets(record, right)
        assert instruction_for(record, right) == ""
        assert repaired(rng, record, right) is None
        wrong = spoilt(rng, right)
        if said := instruction_for(record, wrong):
            assert not meets(record, wrong)
            told += split_sentences(said)
            after = repaired(rng, record, wrong)
            assert after is not None
            assert meets(record, after)
    assert len(told) >= 20
    read = [parse_instruction(sentence) is not None for sentence in told]
    assert np.mean(read) > 0.8, [s for s, known in zip(told, read, strict=True) if not known][:5]


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
