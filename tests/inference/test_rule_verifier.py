"""Grounded-SAM's check as a verifier: right scenes before wrong and before malformed ones, and only GenEval's forms."""

from dataclasses import replace

import numpy as np
import pytest

from inference.prompt_grammar import parse_prompt
from inference.verifier import RULES_SCALE
from microworld.family import micro_vlm
from microworld.scenes.captions import caption_of_record, sample_scene
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import SHAPES, Scene, between, render
from recipes import micro
from schemas.errors import InputError

PROMPTS = (
    "a photo of a red square left of a blue circle",
    "a photo of three hearts",
    "a photo of a cross and a diamond",
    "a photo of a green star",
)


@pytest.fixture(scope="module")
def verifier():
    return replace(micro.verifier(), kinds=("rules",)).only_what_is_used(micro_vlm()).open()


def malformed(rng: np.random.Generator, scene: Scene) -> Scene:
    first, *rest = scene.objects
    other = str(rng.choice([name for name in SHAPES if name != first.shape]))
    return replace(scene, objects=(replace(first, shape=between(first.shape, other, 0.5)), *rest))


def test_right_scenes_score_higher_than_wrong_and_than_malformed_ones(verifier):
    rng = np.random.default_rng(2)
    captions = [caption_of_record(parse_prompt(text)) for text in PROMPTS for _ in range(6)]
    right = [sample_scene(rng, caption, 0.0) for caption in captions]
    wrong = [wrong_scene(rng, caption, scene)[1] for caption, scene in zip(captions, right, strict=True)]
    texts = [caption.text for caption in captions]
    scores = verifier.score(
        list(render([*right, *wrong, *(malformed(rng, scene) for scene in right)]).images), texts * 3
    )
    of_right, of_wrong, of_malformed = scores.reshape(3, -1)
    assert np.mean(of_right > of_wrong) >= 0.95
    assert np.mean(of_right > of_malformed) >= 0.8
    assert abs(scores).max() <= RULES_SCALE / 2
    assert scores.dtype == np.float32


def test_no_images_and_other_forms(verifier):
    assert verifier.score([], []).shape == (0,)
    with pytest.raises(InputError, match="cannot tell what"):
        verifier.score(
            [np.zeros((32, 32, 3), np.uint8)], ["At the top there is a star. In the lower left there is a ring."]
        )
