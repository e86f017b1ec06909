"""Agreement with visual prompts, measured on rendered scenes that are known.

The objects are the renderer's own: what is tested is the measuring, not the judge.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.dual_process.taught_images import Drawn
from benchmarks.dual_process.visual_agreement import (
    horizon_distance_px,
    layout_overlap,
    lies_before,
    palette_distance,
    stroke_px,
)
from benchmarks.dual_process.visual_prompt_gains import SHOWN_SEEDS, draw_grid, summary
from benchmarks.dual_process.visual_references import KINDS, OUTLINED, Reference, references
from inference.dual.concept import ReferenceImage
from microworld.scenes.overlay_questions import STROKES_PX, palette_of, sketch_of
from microworld.scenes.world import COLORS, FRAME_PX, Background, Scene, SceneObject, render
from schemas.images import encode_png
from schemas.records import DetectedObject

PLAIN = Background()
STAR = SceneObject("star", "red", 9, 10, 12)
RING = SceneObject("ring", "blue", 22, 20, 12)


def seen(*objects: SceneObject, background: Background = PLAIN):
    """The image of a scene, and its objects as a perfect judge finds them."""
    rendered = render([Scene(background, objects)])
    rows = zip(objects, rendered.masks[0], rendered.boxes[0], strict=True)
    found = [DetectedObject(o.shape, 1.0, tuple(map(float, box)), o.color, encode_png(mask)) for o, mask, box in rows]
    return rendered.images[0], found


def test_a_palette_of_the_objects_colours_is_at_no_distance():
    image, found = seen(STAR, RING)
    wanted = palette_of(Scene(PLAIN, (STAR, RING))).colors
    assert palette_distance(image, found, wanted) < 1
    # Half of each mean is right, the other half as far off as the nearest colours are apart.
    apart = np.linalg.norm(np.subtract(COLORS["green"], COLORS["blue"]))
    one_wrong = palette_distance(image, found, (COLORS["red"], COLORS["green"]))
    assert 0.4 * apart < one_wrong <= apart
    assert palette_distance(image, found, (COLORS["yellow"], COLORS["white"])) > one_wrong


def test_a_colour_too_many_counts_as_one_too_few_does():
    image, found = seen(STAR, RING)
    too_many = palette_distance(image, found, (COLORS["red"],))
    image, found = seen(STAR)
    too_few = palette_distance(image, found, (COLORS["red"], COLORS["blue"]))
    assert too_many == pytest.approx(too_few, abs=1)
    assert too_many > 50


def test_without_objects_the_background_is_what_there_is_to_see():
    image, _ = seen()
    grey = np.array((140, 140, 140))
    assert palette_distance(image, [], (COLORS["white"],)) == pytest.approx(np.linalg.norm(grey - 250))


@pytest.mark.parametrize("wanted", STROKES_PX)
def test_a_stroke_is_measured_to_a_part_of_a_pixel(wanted):
    rng = np.random.default_rng(3)
    for shape in OUTLINED:
        for color in ("red", "white", "black", "yellow"):
            (x, y), size = rng.uniform(14, 18, 2), rng.uniform(10.5, 13)
            item = SceneObject(shape, color, x, y, size, wanted)
            assert stroke_px(seen(item)[0]) == pytest.approx(wanted, abs=0.6)


def test_thicker_outlines_measure_thicker_and_a_filled_shape_thickest():
    for shape in OUTLINED:
        item = SceneObject(shape, "blue", 16, 15, 12)
        widths = [stroke_px(seen(replace(item, stroke=stroke))[0]) for stroke in (*STROKES_PX, 0.0)]
        assert widths == sorted(widths)
        assert widths[-1] > widths[0] + 2.5


def test_a_background_is_no_stroke():
    assert stroke_px(seen()[0]) == 0
    horizon = Background("horizon", (110, 110, 120), (170, 170, 165), 18)
    assert stroke_px(seen(background=horizon)[0]) == 0
    outlined = SceneObject("circle", "red", 16, 12, 11, 1.8)
    assert stroke_px(seen(outlined, background=horizon)[0]) == pytest.approx(1.8, abs=0.6)


def test_a_horizon_is_as_far_off_as_its_row_and_as_the_edge_where_there_is_none():
    background = Background("horizon", (110, 115, 120), (170, 168, 160), 12)
    image, found = seen(STAR, background=background)
    assert horizon_distance_px(image, found, 12 / FRAME_PX) < 1.5
    assert horizon_distance_px(image, found, 20 / FRAME_PX) == pytest.approx(8, abs=1.5)
    image, found = seen(STAR)
    assert horizon_distance_px(image, found, 0.75) == 24
    assert horizon_distance_px(image, found, 0.25) == 24


def test_an_object_lies_before_the_background_and_before_nothing_else():
    _, found = seen(SceneObject("circle", "red", 9, 10, 12), SceneObject("square", "blue", 22, 22, 10))
    on_circle, on_square, beside = (9 / 32, 10 / 32), (22 / 32, 22 / 32), (26 / 32, 5 / 32)
    assert lies_before(found, on_circle, beside)
    assert not lies_before(found, beside, on_circle)
    assert not lies_before(found, on_circle, on_square)
    assert not lies_before([], on_circle, beside)


def test_a_layout_overlaps_where_objects_of_its_colours_stand():
    square = SceneObject("square", "green", 10, 10, 12)
    sketch = sketch_of(Scene(PLAIN, (square,))).sketch

    def overlap(*objects: SceneObject) -> float:
        return layout_overlap(seen(*objects)[1], sketch)

    assert overlap(square) > 0.8
    assert 0.2 < overlap(replace(square, cx=14)) < 0.6
    assert overlap(replace(square, cx=24, cy=24)) == 0
    assert overlap(replace(square, color="red")) == 0
    assert overlap(square, replace(RING, color="green")) < 0.7 * overlap(square)
    assert overlap() == 0


def test_references_are_always_the_same_and_all_different():
    for kind in KINDS:
        first, again = references(kind, 5), references(kind, 5)
        keys = [reference.concept.digest for reference in first]
        assert keys == [reference.concept.digest for reference in again]
        assert len(set(keys)) == 5


def test_pictures_that_differ_in_the_middle_alone_are_other_concepts():
    picture = np.full((FRAME_PX, FRAME_PX, 4), 200, np.uint8)
    other = picture.copy()
    other[14:18, 14:18, 0] = 0
    keys = {
        Reference("same", "a photo of a star", "", ReferenceImage(p, "?"), lambda *_: 0.0).concept.digest
        for p in (picture, other)
    }
    assert len(keys) == 2


def test_what_is_wanted_measures_as_agreeing():
    """The scene that a layout's reference was sketched from, and an object at the first point of a depth's."""
    for reference in references("relative_depth", 5):
        x, y = (FRAME_PX * share for share in reference.overlay.a)  # type: ignore[attr-defined]
        image, found = seen(SceneObject("circle", "blue", x, y, 8))
        assert reference.measure(image, found) == 1
    for reference in references("horizon_position", 5):
        background = Background("horizon", (110, 115, 120), (170, 168, 160), reference.overlay.y * FRAME_PX)  # type: ignore[attr-defined]
        assert reference.measure(*seen(background=background)) < 1.5


def measured(name: str, before, after, vlm_after=0.9):
    opinions = {"vlm_before": [0.2] * len(before), "vlm_after": [vlm_after] * len(before)}
    return {"reference": name, "prompt": "p", "wanted": "w", "before": before, "after": after, **opinions}


def test_changes_are_paired_by_image_and_the_vlm_stands_beside():
    found = summary("line_weight", [measured("a", [2.0, 4.0], [1.0, 3.0]), measured("b", [3.0, 3.0], [1.0, 3.0])])
    assert (found["before"], found["after"]) == (3.0, 2.0)
    assert found["change, references resampled"] == [-1.0, -1.0, -1.0]  # both references changed by as much
    value, low, high = found["change, seeds resampled"]
    assert (value, low, high) == (-1.0, -1.5, -0.5)  # of the second, either seed may come twice
    assert found["vlm_change, references resampled"][0] == pytest.approx(0.7)


def test_the_grid_has_a_row_a_kind(tmp_path):
    images = np.stack([seen(STAR)[0], seen(RING)[0]])
    drawn = Drawn("p", images, images[::-1].copy(), np.zeros(2), np.ones(2))
    shown = {kind: [(reference, drawn) for reference in references(kind, 2)] for kind in ("color_palette", "layout")}
    sheet = np.array(draw_grid(shown))
    assert len(images) == SHOWN_SEEDS
    assert (sheet == COLORS["red"]).all(-1).any()
    one = np.array(draw_grid({"layout": shown["layout"]}))
    assert one.shape[0] < sheet.shape[0]
    assert one.shape[1] == sheet.shape[1]
