"""The strip shows images that the judge calls wrong until the last, which has nothing that nobody asked for."""

from dataclasses import replace

from benchmarks.search.film_strip import draw, stories
from inference.prompt_grammar import parse_prompt
from microworld.scenes.world import Background, Scene, SceneObject, render
from schemas.images import decode_image, encode_png
from schemas.records import Candidate, PromptRow, SearchStep

RING, STAR = SceneObject("ring", "red", 8, 16, 14), SceneObject("star", "blue", 24, 16, 14)
HEART = SceneObject("heart", "white", 24, 16, 12)
CROSS = SceneObject("cross", "white", 16, 26, 9)


def searched(*scenes: tuple[SceneObject, ...]) -> PromptRow:
    """A search of one chain, each image drawn from the one before."""
    images = render([Scene(Background(), objects) for objects in scenes]).images
    drawn = [Candidate(i, i, "", 4, 32, 32, "", encode_png(image), search=step(i)) for i, image in enumerate(images)]
    return PromptRow(parse_prompt("a photo of a red ring and a blue star"), candidates=tuple(drawn))


def step(index: int) -> SearchStep:
    first = SearchStep(round=index, chain=0, score=0.0)
    return replace(first, parent=index - 1, reflection="Do it.") if index else first


def test_a_story_ends_with_its_first_right_image(tmp_path):
    row = searched((STAR,), (RING, HEART), (RING, STAR))
    (one,) = stories([row], corrections=1, most=3)
    assert [candidate.index for candidate in one.images] == [1, 2]
    (two,) = stories([row], corrections=2, most=3)
    assert [candidate.index for candidate in two.images] == [0, 1, 2]
    assert two.told == ["Do it.", "Do it."]
    assert stories([row], corrections=3, most=3) == []
    draw([two], tmp_path / "strip.png")
    assert decode_image((tmp_path / "strip.png").read_bytes()).shape[1] > 500


def test_a_right_image_with_more_than_was_asked_for_is_not_shown():
    assert stories([searched((STAR,), (RING, STAR, CROSS))], corrections=1, most=3) == []
    assert stories([searched((RING, STAR), (STAR, RING))], corrections=1, most=3) == []
