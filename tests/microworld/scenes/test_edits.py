from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from microworld.scenes.captions import (
    TAGS,
    Clause,
    bounding_square,
    caption_from_clauses,
    is_reserved,
    is_true_of,
    place_of,
    relations_between,
    sample_caption,
    sample_scene,
)
from microworld.scenes.edits import name_edit, sample_edit, wrong_scene
from microworld.scenes.instructed_captions import sample_instructed_caption
from microworld.scenes.instructions import Edit, Operation, agrees, instruction, parse_instruction, split_sentences
from microworld.scenes.world import FRAME_PX, MIN_GAP_PX, Background, Scene, SceneObject, random_scene


def is_valid(scene: Scene) -> bool:
    for i, a in enumerate(scene.objects):
        if not (a.size / 2 <= min(a.cx, a.cy) and max(a.cx, a.cy) <= FRAME_PX - a.size / 2):
            return False
        for b in scene.objects[:i]:
            if max(abs(a.cx - b.cx), abs(a.cy - b.cy)) - (a.size + b.size) / 2 < MIN_GAP_PX - 1e-9:
                return False
    return True


def matching(scene: Scene, shape: str | None, color: str | None) -> list[SceneObject]:
    return [o for o in scene.objects if o.shape == shape and color in (None, o.color)]


def leads(edit: Edit, before: Scene, after: Scene) -> bool:
    """Whether what `edit` says is what differs, looked at without the code under test."""
    was, now = matching(before, edit.shape, edit.color), matching(after, edit.shape, edit.color)
    match edit.operation:
        case Operation.ADD:
            holds = len(now) == len(was) + 1
        case Operation.REMOVE:
            holds = len(was) == 1 and not now
        case Operation.RECOUNT:
            holds = (len(was), len(now)) == (edit.count, edit.new_count)
        case Operation.RECOLOR:
            new_was, new_now = (matching(s, edit.shape, edit.new_color) for s in (before, after))
            changed = len(was) - len(now)
            holds = changed == edit.count == len(new_now) - len(new_was) and (edit.one_of or not now)
        case Operation.RESHAPE:
            new_was, new_now = (matching(s, edit.new_shape, edit.color) for s in (before, after))
            holds = len(was) - len(now) == 1 == len(new_now) - len(new_was) and (edit.one_of or not now)
        case _:
            holds = len(was) == len(now) == 1 and was != now
            if edit.place:
                holds &= place_of(now[0]) == edit.place != place_of(was[0])
    if edit.relation and holds:
        targets = matching(after, edit.target, edit.target_color)
        square = bounding_square(now[0])
        holds = len(targets) == 1 and edit.relation in relations_between(square, bounding_square(targets[0]))
    return holds


def test_edits_are_valid_change_nothing_else_and_say_what_they_do():
    rng = np.random.default_rng(1)
    seen = Counter()
    for _ in range(600):
        scene = random_scene(rng)
        edit, after = sample_edit(rng, scene)
        seen[edit.operation] += 1
        assert is_valid(after)
        assert after.background == scene.background
        kept = sum((Counter(scene.objects) & Counter(after.objects)).values())
        assert kept >= len(scene.objects) - (edit.count or 1 if edit.operation is Operation.RECOLOR else 1)
        assert leads(edit, scene, after), (edit, scene, after)
    assert set(seen) == set(Operation)
    assert min(seen.values()) > 30


def test_edits_of_a_captioned_scene_violate_the_caption():
    rng = np.random.default_rng(2)
    for _ in range(200):
        caption = sample_caption(rng)
        _, after = sample_edit(rng, sample_scene(rng, caption), caption)
        assert not is_true_of(caption, after)


@pytest.mark.parametrize("tag", TAGS)
def test_wrong_scenes_violate_the_caption_and_their_edit_leads_back(tag):
    rng = np.random.default_rng(3)
    for _ in range(150):
        caption = sample_caption(rng, {tag: 1.0})
        scene = sample_scene(rng, caption)
        edit, wrong = wrong_scene(rng, caption, scene)
        assert is_valid(wrong)
        assert not is_true_of(caption, wrong)
        assert is_true_of(caption, scene)
        assert leads(edit, wrong, scene), (caption.text, edit, wrong, scene)
        read = parse_instruction(instruction(edit, rng))
        assert read is not None
        assert agrees(read, edit)


def test_wrong_positions_are_told_by_the_captions_own_relation():
    rng = np.random.default_rng(4)
    caption = caption_from_clauses("position", (Clause("ring"), Clause("star", relation=("left of", 0))))
    texts = {instruction(wrong_scene(rng, caption, sample_scene(rng, caption))[0]) for _ in range(200)}
    assert "Move the star to the left of the ring." in texts
    assert "Move the ring to the right of the star." in texts
    assert "Add a star to the left of the ring." in texts
    assert not any("upper" in text or "above" in text for text in texts)


def test_colours_that_a_caption_leaves_open_are_not_asked_for():
    rng = np.random.default_rng(5)
    caption = caption_from_clauses("counting", (Clause("ring", 3),))
    texts = {instruction(wrong_scene(rng, caption, sample_scene(rng, caption))[0]) for _ in range(200)}
    assert "Add one more ring so that there are three." in texts
    assert "Remove one ring so that there are three." in texts


def test_wrong_scene_starts_from_a_right_one():
    star = caption_from_clauses("single_object", (Clause("star"),))
    with pytest.raises(ValueError, match="not true of the scene"):
        wrong_scene(np.random.default_rng(0), star, Scene(Background(), ()))


def test_a_difference_that_no_sentence_tells_has_no_edit():
    alike = (SceneObject("star", "red", 6, 6, 9), SceneObject("star", "red", 26, 26, 9))
    before = Scene(Background(), alike)
    moved = Scene(Background(), (alike[0], replace(alike[1], cy=6.0)))
    rng = np.random.default_rng(0)
    assert name_edit(before, moved, rng) is None
    assert name_edit(before, before, rng) is None


def test_instructed_captions_are_true_of_their_scenes_and_never_compose_reserved_ones():
    rng = np.random.default_rng(6)
    underspecified = 0
    for _ in range(600):
        text, scene = sample_instructed_caption(rng)
        prompt, separator, told = text.partition(" [Reflexion] ")
        assert separator
        edits = [parse_instruction(sentence) for sentence in split_sentences(told)]
        assert 1 <= len(edits) <= 2
        assert is_valid(scene)
        for edit in edits:
            assert edit is not None, told
            now = matching(scene, edit.shape, edit.new_color or edit.color)
            match edit.operation:
                case Operation.RECOLOR:
                    assert now, text
                case Operation.MOVE if edit.place:
                    assert place_of(now[0]) == edit.place, text
                case Operation.MOVE | Operation.ADD:
                    assert now, text
                    for target in matching(scene, edit.target, edit.target_color):
                        found = relations_between(bounding_square(now[0]), bounding_square(target))
                        assert edit.relation in found, text
                case Operation.RESHAPE:
                    assert matching(scene, edit.new_shape, None), text
                case Operation.RECOUNT:
                    assert len(now) == edit.new_count, text
                case Operation.REMOVE:
                    assert not matching(scene, edit.shape, edit.color), text
        first = edits[0]
        assert first is not None
        if len(prompt.split()) == 5 and prompt.startswith("a photo of a") and first.operation is Operation.RECOLOR:
            underspecified += 1
            color = first.new_color
            shape = prompt.split()[-1]
            demanded = caption_from_clauses("colors", (Clause(shape, 1, color),))
            assert not is_reserved(demanded), text
    assert underspecified > 20


def test_the_same_seed_gives_the_same_instructed_captions():
    first, second = np.random.default_rng(7), np.random.default_rng(7)
    assert [sample_instructed_caption(first) for _ in range(20)] == [
        sample_instructed_caption(second) for _ in range(20)
    ]
