"""Image in, verdict out, with the shipped micro weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from inference.grounding.check import check_objects
from inference.grounding.grounded_sam import GroundedSam, classes_to_find
from microworld.family import micro_grounded_sam
from microworld.scenes.world import Background, Scene, SceneObject, render
from schemas.images import decode_mask, encode_png
from schemas.records import ObjectClause, PromptRecord

RED_STAR_LEFT_OF_RING = PromptRecord(
    "p",
    "a photo of a red star left of a ring",
    "rule",
    "position",
    (ObjectClause("ring"), ObjectClause("star", 1, "red", "left of", 0)),
    (ObjectClause("star", 2), ObjectClause("heart")),
)


@pytest.fixture(scope="module")
def grounded_sam() -> GroundedSam:
    return micro_grounded_sam().open()


def scene(*objects: tuple[str, str, float, float]) -> Scene:
    return Scene(Background(), tuple(SceneObject(s, c, x, y, 12) for s, c, x, y in objects))


def test_classes_of_include_and_exclude_once():
    assert classes_to_find(RED_STAR_LEFT_OF_RING) == ("ring", "star", "heart")


def test_verdicts_on_rendered_images(grounded_sam):
    right = scene(("star", "red", 8, 16), ("ring", "blue", 24, 16))
    color = scene(("star", "blue", 8, 16), ("ring", "blue", 24, 16))
    place = scene(("star", "red", 24, 16), ("ring", "blue", 8, 16))
    images = list(render([right, color, place]).images)
    found = grounded_sam.find_objects(images, [classes_to_find(RED_STAR_LEFT_OF_RING)] * 3)
    checks = [check_objects(RED_STAR_LEFT_OF_RING, objects) for objects in found]
    assert [check.reasons for check in checks] == [
        (),
        ("expected red star>=1, found 0 red; and 1 blue",),
        ("expected star left of ring, found right of ring",),
    ]
    assert checks[0].score > 0.7
    for item in found[0]:
        mask = decode_mask(item.mask_png)
        x0, y0, x1, y1 = (round(v) for v in item.box)
        assert mask.shape == (32, 32)
        assert mask[max(0, y0 - 2) : y1 + 2, max(0, x0 - 2) : x1 + 2].sum() == mask.sum() > 30


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.booleans()))
def test_masks_survive_their_png(mask):
    assert np.array_equal(decode_mask(encode_png(mask)), mask)
