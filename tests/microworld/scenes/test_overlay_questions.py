"""Visual prompts of the micro world: an overlay agrees with its image exactly when the case says so."""

from collections import Counter

import numpy as np
import pytest

from microworld.scenes.overlay_questions import palette_of, sample_overlay, sketch_of
from microworld.scenes.world import FRAME_PX, render

CASES = [sample_overlay(np.random.default_rng([5, seed])) for seed in range(400)]


def of_kind(kind):
    return [case for case in CASES if case.kind == kind]


def test_all_kinds_come_and_half_of_the_cases_agree():
    assert set(Counter(case.kind for case in CASES)) == {"palette", "line weight", "horizon", "depth", "composition"}
    assert 0.4 < np.mean([case.agrees for case in CASES]) < 0.6


def test_a_palette_agrees_if_it_has_exactly_the_colours_of_the_objects():
    for case in of_kind("palette"):
        assert (case.prompt == palette_of(case.scene)) == case.agrees


def test_a_line_agrees_if_it_is_as_thick_as_the_outlines():
    for case in of_kind("line weight"):
        assert {item.stroke for item in case.scene.objects}
        same = all(item.stroke == pytest.approx(case.prompt.weight * FRAME_PX) for item in case.scene.objects)
        assert same == case.agrees


def test_a_horizon_agrees_if_the_line_is_at_it_and_is_far_from_it_otherwise():
    for case in of_kind("horizon"):
        off = abs(case.prompt.y * FRAME_PX - case.scene.background.horizon_px)
        assert off < 1e-6 if case.agrees else off >= 5


def test_point_a_lies_on_something_nearer_exactly_if_the_case_agrees():
    for case in of_kind("depth"):
        depth = np.zeros((FRAME_PX, FRAME_PX), int)
        for number, mask in enumerate(render([case.scene]).masks[0], start=1):
            depth[mask] = number
        a, b = (depth[int(y * FRAME_PX), int(x * FRAME_PX)] for x, y in (case.prompt.a, case.prompt.b))
        assert a != b
        assert (a > b) == case.agrees


def test_a_sketch_agrees_if_it_is_that_of_the_scene():
    for case in of_kind("composition"):
        assert (case.prompt.sketch == sketch_of(case.scene).sketch).all() == case.agrees
