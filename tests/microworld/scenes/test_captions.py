import re
from dataclasses import replace

import numpy as np
import pytest

from microworld.scenes.captions import (
    RELATIONS,
    TAGS,
    VOCABULARY,
    Clause,
    caption_from_clauses,
    class_plural,
    is_reserved,
    is_true_of,
    place_of,
    relations_between,
    sample_caption,
    sample_captioned_scene,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.world import COLORS, SHAPES, SceneObject, render


@pytest.mark.parametrize("tag", TAGS)
def test_scenes_are_exactly_what_their_captions_say(tag):
    rng = np.random.default_rng(1)
    for _ in range(100):
        caption = sample_caption(rng, {tag: 1.0})
        scene = sample_scene(rng, caption)
        assert is_true_of(caption, scene)
        assert not is_true_of(caption, replace(scene, objects=scene.objects[1:]))
        assert not is_true_of(caption, replace(scene, objects=(*scene.objects, scene.objects[0])))


def test_positions_hold_for_the_drawn_masks_too():
    rng = np.random.default_rng(2)
    for _ in range(100):
        caption = sample_caption(rng, {"position": 1.0})
        scene = sample_scene(rng, caption)
        boxes = render([scene]).boxes[0]
        by_shape = {o.shape: box for o, box in zip(scene.objects, boxes, strict=True)}
        target, subject = caption.clauses
        assert subject.relation is not None
        assert subject.relation[0] in relations_between(by_shape[subject.shape], by_shape[target.shape])
        assert RELATIONS[subject.relation[0]] in relations_between(by_shape[target.shape], by_shape[subject.shape])


def test_swapped_colours_and_swapped_places_are_wrong():
    rng = np.random.default_rng(3)
    for tag in ("color_attr", "position"):
        caption = sample_caption(rng, {tag: 1.0})
        a, b = sample_scene(rng, caption).objects
        swapped = (
            (replace(a, color=b.color), replace(b, color=a.color))
            if tag == "color_attr"
            else (replace(a, cx=b.cx, cy=b.cy), replace(b, cx=a.cx, cy=a.cy))
        )
        assert not is_true_of(caption, replace(sample_scene(rng, caption), objects=swapped))


def test_texts_read_as_geneval_writes_them():
    assert caption_from_clauses("single_object", (Clause("circle"),)).text == "a photo of a circle"
    assert caption_from_clauses("counting", (Clause("cross", 3),)).text == "a photo of three crosses"
    assert caption_from_clauses("colors", (Clause("ring", 1, "orange"),)).text == "a photo of an orange ring"
    assert caption_from_clauses("colors", (Clause("circle", 2, "red"),)).text == "a photo of two red circles"
    position = (Clause("star"), Clause("circle", relation=("left of", 0)))
    assert caption_from_clauses("position", position).text == "a photo of a circle left of a star"
    both = (Clause("circle", color="red"), Clause("star", color="blue"))
    assert caption_from_clauses("color_attr", both).text == "a photo of a red circle and a blue star"


def test_training_never_sees_reserved_compositions_in_any_spelling():
    rng = np.random.default_rng(4)
    assert not any(is_reserved(sample_training_caption(rng)) for _ in range(500))
    for _ in range(200):
        first, second = sample_caption(rng, {"color_attr": 1.0}).clauses
        pair = caption_from_clauses("color_attr", (first, second))
        assert is_reserved(pair) == is_reserved(caption_from_clauses("color_attr", (second, first)))
        target, subject = sample_caption(rng, {"position": 1.0}).clauses
        assert subject.relation is not None
        mirrored = (Clause(subject.shape), Clause(target.shape, relation=(RELATIONS[subject.relation[0]], 0)))
        position = caption_from_clauses("position", (target, subject))
        assert is_reserved(position) == is_reserved(caption_from_clauses("position", mirrored))


def test_a_fifth_of_compositions_is_reserved_and_a_tenth_of_colour_pairs():
    names, colors = list(SHAPES), list(COLORS)
    pairs = [(a, b) for a in names for b in names if a != b]
    captions = {
        "two_object": [(Clause(a), Clause(b)) for a, b in pairs],
        "position": [(Clause(b), Clause(a, relation=(r, 0))) for a, b in pairs for r in RELATIONS],
        "colors": [(Clause(a, 1, c),) for a in names for c in colors],
        "color_attr": [
            (Clause(a, color=c), Clause(b, color=d)) for a, b in pairs for c in colors for d in colors if c != d
        ],
    }
    for tag, clauses in captions.items():
        share = np.mean([is_reserved(caption_from_clauses(tag, c)) for c in clauses])
        assert (0.08 < share < 0.12) if tag == "color_attr" else (0.12 < share < 0.25), (tag, share)
    rng = np.random.default_rng(5)
    for tag in ("single_object", "counting"):
        assert not any(is_reserved(sample_caption(rng, {tag: 1.0})) for _ in range(100))


def test_the_first_words_keep_their_token_ids():
    assert len(VOCABULARY) + 4 < 512
    assert VOCABULARY[:10] == ("a", "an", "the", "photo", "of", "and", "image", "picture", "circle", "square")
    assert VOCABULARY[217] == "further"


def test_places_are_cells_of_a_three_by_three_grid():
    def place(cx: float, cy: float) -> str:
        return place_of(SceneObject("star", "red", cx, cy, 9))

    assert place(5, 5) == "upper left"
    assert place(16, 5) == "top"
    assert place(27, 16) == "right"
    assert place(16, 16) == "centre"
    assert place(5, 27) == "lower left"
    assert place(40, 50) == "lower right"


def test_the_vocabulary_covers_captions_and_has_no_duplicates():
    rng = np.random.default_rng(6)
    words = {word for _ in range(1000) for word in sample_captioned_scene(rng)[0].split()}
    assert words <= set(VOCABULARY)
    assert {*SHAPES, *COLORS, *(class_plural(s) for s in SHAPES), "[reflexion]", "replace"} <= set(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert all(re.fullmatch(r"[a-z]+|[0-9]|[^\sa-z0-9]|\[reflexion\]", word) for word in VOCABULARY)


def test_the_same_seed_gives_the_same_captions_and_scenes():
    first, second = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(20):
        assert sample_captioned_scene(first) == sample_captioned_scene(second)
