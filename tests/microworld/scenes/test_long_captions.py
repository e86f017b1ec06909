import re
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from microworld.scenes.captions import COUNT_WORDS, class_plural, place_of
from microworld.scenes.long_captions import (
    MAX_TOKENS,
    composes_reserved,
    condense,
    count_tokens,
    describe,
    describe_background,
    mentions,
    sample_long_caption,
)
from microworld.scenes.world import SHAPES, Background, Scene, SceneObject, random_background, random_scene, render

FUNCTION_WORDS = {
    *("a", "an", "the", "photo", "of", "and", "image", "picture", "with", "is", "are", "there", "in", "on", "at"),
    *("it", "its", "shows", "contains", "stands", "sits", "appears", "has"),
}
NOUNS = {*SHAPES, *map(class_plural, SHAPES)}


def is_shorter_and_implied(short: str, long: str) -> bool:
    """Fewer words than `long`, and nothing that it does not say.

    Every object of `short` must be another object of `long` with at least the same attributes, and every other word
    of it (articles, verbs and the like aside) must occur in `long`.
    """
    words, long_words = (re.findall(r"[a-z]+", text.lower()) for text in (short, long))
    if len(words) >= len(long_words):
        return False
    told, known = mentions(short), mentions(long)
    if len(told) > len(known):
        return False
    said = {"outlined" if w == "outline" else w for w in long_words}
    others = set(words) - FUNCTION_WORDS - NOUNS - set(COUNT_WORDS.values()) - {"outline"}
    if not others <= said:
        return False
    return any(
        all(a.shape == b.shape and a.attributes <= b.attributes for a, b in zip(told, chosen, strict=True))
        for chosen in permutations(known, len(told))
    )


def truth(item: SceneObject) -> tuple[str, set[str]]:
    said = {item.color, place_of(item)}
    said |= {"outlined"} if item.stroke else set()
    said |= {"small"} if item.size < 9.5 else {"large"} if item.size >= 12.5 else set()
    return item.shape, said


def test_long_captions_say_exactly_what_is_there():
    rng = np.random.default_rng(1)
    for _ in range(300):
        text, scene = sample_long_caption(rng)
        told = sorted((m.shape, sorted(m.attributes)) for m in mentions(text))
        true = sorted((shape, sorted(said)) for shape, said in map(truth, scene.objects))
        assert told == true, (text, scene)
        assert count_tokens(text) <= MAX_TOKENS
        assert not composes_reserved(scene.objects)
        kind = scene.background.kind
        words = {"plain": ("plain",), "gradient": ("gradient", "fades"), "horizon": ("horizon", "sky")}
        assert any(word in text for word in words[kind]), (kind, text)


def test_any_scene_fits_into_the_longest_bucket():
    rng = np.random.default_rng(2)
    for _ in range(200):
        scene = random_scene(rng)
        outlined = tuple(SceneObject(o.shape, "purple", o.cx, o.cy, 8.5, 1.2) for o in scene.objects)
        scene = Scene(random_background(rng, 1.0), outlined)
        text = describe(scene, rng)
        assert count_tokens(text) <= MAX_TOKENS, text
        assert len(mentions(text)) == len(scene.objects)


def test_condensed_captions_are_implied_and_name_every_object():
    rng = np.random.default_rng(3)
    for _ in range(300):
        text, scene = sample_long_caption(rng)
        short = condense(scene, rng)
        assert is_shorter_and_implied(short, text), (short, text)
        assert sorted(m.shape for m in mentions(short)) == sorted(o.shape for o in scene.objects)
        other_text, other = sample_long_caption(rng)
        if Counter(o.shape for o in scene.objects) - Counter(o.shape for o in other.objects):
            assert not is_shorter_and_implied(text, other_text)


LONG = "A small red star in the upper left and a blue ring on the right on a plain grey background."


@pytest.mark.parametrize(
    ("short", "implied"),
    [
        ("a photo of a red star and a ring", True),
        ("a photo of a star in the upper left", True),
        ("a photo of a ring on a plain background", True),
        ("a photo of a blue star and a ring", False),
        ("a photo of two stars", False),
        ("a photo of a star on the right", False),
        ("a photo of a circle", False),
        ("a photo of a star above a ring", False),
        ("a photo of a star on a gradient background", False),
        (LONG, False),
    ],
)
def test_implication_is_by_object(short, implied):
    assert is_shorter_and_implied(short, LONG) == implied


def test_words_for_the_background_are_those_of_its_pixels():
    rng = np.random.default_rng(4)
    for _ in range(200):
        background = random_background(rng, 0.8)
        image = render([Scene(background, ())]).images[0].astype(float)
        text = describe_background(background, rng)
        top, bottom = image[0].mean(), image[-1].mean()
        if "lighter above" in text or "from lighter" in text or "lighter sky" in text:
            assert top > bottom + 5
        if "darker above" in text or "from darker" in text or "darker sky" in text:
            assert bottom > top + 5
        if "dark grey" in text:
            assert image.mean() < 127
        if "light grey" in text:
            assert image.mean() > 153


def test_outlines_are_said_and_drawn():
    rng = np.random.default_rng(5)
    drawn = [sample_long_caption(rng) for _ in range(300)]
    outlined = [scene for text, scene in drawn if "outline" in text]
    assert 20 < len(outlined) < 80
    for scene in outlined[:20]:
        masks = render([scene]).masks[0]
        for item, mask in zip(scene.objects, masks, strict=True):
            if item.stroke:
                assert mask.sum() < 0.8 * item.size**2


def test_an_empty_scene_is_its_background():
    rng = np.random.default_rng(6)
    empty = Scene(Background(), ())
    assert describe(empty, rng) == "A plain grey background."
    assert mentions(condense(empty, rng)) == ()
