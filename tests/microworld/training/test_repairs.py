"""Repairs do what the caption asks for, say so, and leave the rest of a drawing alone."""

from dataclasses import replace

import numpy as np

from microworld.scenes.captions import (
    COLORED_RELATION,
    Clause,
    caption_from_clauses,
    is_reserved,
    is_true_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.corrections import corrections
from microworld.scenes.edits import wrong_scene
from microworld.scenes.instructions import Operation, instruction, parse_instruction
from microworld.scenes.world import Background, Scene, SceneObject, render
from microworld.training.edit_dataset import edited_drawing, edited_render, muddled_render, rendered_triplets, to_row
from microworld.training.pixel_scorer import read_scene
from microworld.training.repairs import BLOB, paint_over, repair
from microworld.training.vlm_images import PooledImage
from schemas.images import decode_image

GREY = Background("plain", (140, 140, 140), (140, 140, 140))
STAR_AND_RING = caption_from_clauses("two_object", (Clause("star"), Clause("ring")))


def test_a_repair_makes_the_caption_true_and_can_be_said():
    rng, done = np.random.default_rng(0), 0
    for _ in range(120):
        caption = sample_training_caption(rng)
        _, wrong = wrong_scene(rng, caption, sample_scene(rng, caption))
        found = repair(rng, caption, wrong)
        if found is None:
            continue
        edits, after = found
        done += 1
        assert is_true_of(caption, after)
        assert all(parse_instruction(instruction(edit)) is not None for edit in edits)
    assert done > 80


def test_what_is_right_is_not_repaired():
    scene = Scene(GREY, (SceneObject("star", "red", 9, 9, 10), SceneObject("ring", "blue", 23, 23, 10)))
    assert repair(np.random.default_rng(0), STAR_AND_RING, scene) is None


def test_a_malformed_thing_gives_way_to_what_is_missing():
    blob = SceneObject(BLOB, "red", 9, 9, 9)
    scene = Scene(GREY, (blob, SceneObject("ring", "blue", 23, 23, 10)))
    found = repair(np.random.default_rng(1), STAR_AND_RING, scene)
    assert found is not None
    assert sorted(o.shape for o in found[1].objects) == ["ring", "star"]


def test_objects_drawn_the_wrong_way_round_change_places():
    caption = caption_from_clauses("position", (Clause("ring"), Clause("star", relation=("left of", 0))))
    star, ring = SceneObject("star", "red", 24, 15, 13), SceneObject("ring", "blue", 8, 17, 12)
    found = repair(np.random.default_rng(0), caption, Scene(GREY, (ring, star)))
    assert found is not None
    assert [edit.operation for edit in found[0]] == [Operation.MOVE]
    assert found[1].objects == (
        SceneObject("ring", "blue", 24, 15, 13),
        SceneObject("star", "red", 8, 17, 12),
    )


def test_rendered_moves_are_of_objects_the_wrong_way_round():
    rng, moves = np.random.default_rng(4), 0
    while moves < 5:
        made = edited_render(rng)
        if made is None or made[0] != "repair" or made[3].tag != "position" or made[4][0].operation != Operation.MOVE:
            continue
        _, before, after, caption, edits = made
        moves += 1
        assert is_true_of(caption, after)
        assert not is_true_of(caption, before)
        assert {(o.cx, o.cy) for o in before.objects} == {(o.cx, o.cy) for o in after.objects}
        assert edits == corrections(caption, before)


def test_pixels_that_no_edit_touches_stay():
    kept, old = SceneObject("ring", "blue", 23, 23, 10), SceneObject("star", "red", 9, 9, 10)
    image = render([Scene(GREY, (old, kept))]).images[0]
    seen = read_scene(image)
    star = next(o for o in seen.objects if o.shape == "star")
    after = replace(seen, objects=tuple(replace(o, color="green") if o is star else o for o in seen.objects))
    painted = paint_over(image, seen, after)
    assert (painted[16:, 16:] == image[16:, 16:]).all()
    assert {(o.shape, o.color) for o in read_scene(painted).objects} == {("star", "green"), ("ring", "blue")}


def test_a_removed_object_leaves_background_behind():
    image = render(
        [Scene(GREY, (SceneObject("star", "red", 9, 9, 10), SceneObject("ring", "blue", 23, 23, 10)))]
    ).images[0]
    seen = read_scene(image)
    after = replace(seen, objects=tuple(o for o in seen.objects if o.shape != "star"))
    painted = paint_over(image, seen, after)
    assert np.abs(painted[:16, :16].astype(int) - 140).max() <= 3


def test_a_wrong_drawing_becomes_a_triplet_whose_edited_image_is_right():
    rng = np.random.default_rng(2)
    scene = Scene(GREY, (SceneObject("star", "red", 9, 9, 10), SceneObject("cross", "blue", 23, 23, 10)))
    item = PooledImage(render([scene]).images[0], read_scene(render([scene]).images[0]), STAR_AND_RING)
    triplet = edited_drawing(rng, item)
    assert triplet is not None
    assert triplet.task == "repair"
    assert is_true_of(STAR_AND_RING, read_scene(triplet.edited))


def test_rendered_triplets_are_rows_of_an_editing_file():
    triplets = rendered_triplets(seed=3, number=0)
    assert {t.task for t in triplets} == {"repair", "open"}
    row = to_row(triplets[0], 0, np.random.default_rng(0))
    assert (decode_image(row["src_img"]) == triplets[0].source).all()
    assert row["caption"].startswith("a photo of")
    assert row["edited_prompt_list"][0].endswith(".")


def test_two_objects_with_each_other_s_shapes_take_two_edits_at_the_fewest():
    caption = caption_from_clauses(
        "position", (Clause("ring", color="blue"), Clause("star", color="red", relation=("left of", 0)))
    )
    drawn = Scene(GREY, (SceneObject("ring", "red", 8, 16, 10), SceneObject("star", "blue", 24, 16, 10)))
    assert [edit.operation for edit in corrections(caption, drawn)] == [
        Operation.RECOLOR,
        Operation.RECOLOR,
        Operation.MOVE,
    ]
    found = repair(np.random.default_rng(0), caption, drawn, fewest=True)
    assert found is not None
    said = [instruction(edit) for edit in found[0]]
    assert sorted(said) == ["Replace the blue star by a blue ring.", "Replace the red ring by a red star."]
    assert found[1].objects == (SceneObject("star", "red", 8, 16, 10), SceneObject("ring", "blue", 24, 16, 10))


def test_the_fewest_edits_are_never_more():
    rng = np.random.default_rng(3)
    for _ in range(200):
        caption = sample_training_caption(rng, {COLORED_RELATION: 1.0, "color_attr": 1.0})
        scene = sample_scene(rng, sample_training_caption(rng, {COLORED_RELATION: 1.0}))
        assert len(corrections(caption, scene, fewest=True)) <= len(corrections(caption, scene))


def test_muddled_renders_are_wrong_by_several_edits_and_repaired_by_what_is_said():
    rng, numbers, relations = np.random.default_rng(4), [], 0
    for _ in range(200):
        made = muddled_render(rng)
        if made is None:
            continue
        _, before, after, caption, edits = made
        assert not is_reserved(caption)
        assert not is_true_of(caption, before)
        assert is_true_of(caption, after)
        assert before.background == after.background
        numbers.append(len(edits))
        relations += caption.tag == "position" and caption.clauses[0].color is not None
    assert len(numbers) > 100
    assert np.mean(np.array(numbers) > 1) > 0.6
    assert relations > len(numbers) / 3
