"""An edit that is made puts right what it was named for; one that cannot be made changes nothing."""

import numpy as np
import pytest

from microworld.scenes.apply_edit import apply_edit
from microworld.scenes.captions import is_true_of, sample_scene, sample_training_caption
from microworld.scenes.corrections import corrections
from microworld.scenes.edits import wrong_scene
from microworld.scenes.instructions import Edit, Operation
from microworld.scenes.world import Background, Scene, SceneObject


def test_the_corrections_of_a_wrong_scene_put_it_right():
    right = 0
    for seed in range(120):
        rng = np.random.default_rng([5, seed])
        caption = sample_training_caption(rng)
        _, wrong = wrong_scene(rng, caption, sample_scene(rng, caption))
        assert not is_true_of(caption, wrong)
        for edit in corrections(caption, wrong):
            wrong = apply_edit(rng, wrong, edit)
        for edit in corrections(caption, wrong):  # a place, once everything is there
            wrong = apply_edit(rng, wrong, edit)
        right += is_true_of(caption, wrong)
    assert right >= 114


@pytest.mark.parametrize(
    "edit",
    [
        Edit(Operation.REMOVE, "star"),
        Edit(Operation.RESHAPE, "star", new_shape="ring"),
        Edit(Operation.MOVE, "star", relation="above", target="ring"),
        Edit(Operation.MOVE, "ring", relation="above", target="star"),
        Edit(Operation.ADD, "star", count=1),
    ],
)
def test_what_cannot_be_done_changes_nothing(edit):
    rings = [SceneObject("ring", "red", 8.0 + 16 * (i % 2), 8.0 + 16 * (i // 2), 15.0) for i in range(4)]
    crowded = Scene(Background(), tuple(rings))
    after = apply_edit(np.random.default_rng(0), crowded, edit)
    assert sorted(o.shape for o in after.objects) == ["ring"] * 4


def test_one_of_several_alike_is_changed_or_all_as_the_edit_says():
    stars = tuple(SceneObject("star", "red", 6.0 + 10 * i, 16.0, 8.0) for i in range(3))
    scene, rng = Scene(Background(), stars), np.random.default_rng(0)
    one = apply_edit(rng, scene, Edit(Operation.RECOLOR, "star", "red", new_color="blue", one_of=True))
    assert [o.color for o in one.objects].count("blue") == 1
    every = apply_edit(rng, scene, Edit(Operation.RECOLOR, "star", "red", count=3, new_color="blue"))
    assert [o.color for o in every.objects] == ["blue"] * 3
    fewer = apply_edit(rng, scene, Edit(Operation.RECOUNT, "star", count=3, new_count=1))
    assert len(fewer.objects) == 1
