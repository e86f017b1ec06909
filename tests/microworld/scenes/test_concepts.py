import re

import numpy as np
import pytest

from microworld.scenes.captions import VOCABULARY
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.world import Background, Scene, SceneObject, render


def test_three_dozen_words_that_the_generator_does_not_know():
    assert len(CONCEPTS) >= 36
    assert not set(CONCEPTS) & set(VOCABULARY)


@pytest.mark.parametrize("word", CONCEPTS)
def test_descriptions_use_the_worlds_words(word):
    tokens = re.findall(r"[a-z]+|[^\sa-z0-9]", CONCEPTS[word].description)
    assert set(tokens) <= set(VOCABULARY), set(tokens) - set(VOCABULARY)


@pytest.mark.parametrize("word", CONCEPTS)
def test_samples_show_the_concept_and_near_misses_do_not(word):
    rng = np.random.default_rng(1)
    concept = CONCEPTS[word]
    for _ in range(25):
        scene = concept.sample(rng)
        assert concept.holds(scene)
        assert all(mask.any() for mask in render([scene]).masks[0])
        missed = concept.near_miss(rng)
        assert not concept.holds(missed)
        assert len(missed.objects) == len(concept.parts)


def test_no_two_concepts_mean_the_same():
    rng = np.random.default_rng(2)
    for word, concept in CONCEPTS.items():
        for _ in range(10):
            scene = concept.sample(rng)
            others = [other for other, rival in CONCEPTS.items() if other != word and rival.holds(scene)]
            assert set(others) <= {"chain"}, (word, others)


def test_a_sunrise_needs_its_horizon():
    sun = SceneObject("circle", "yellow", 16, 10, 10)
    horizon = Background("horizon", (150, 150, 150), (110, 110, 110), 16.0)
    assert CONCEPTS["sunrise"].holds(Scene(horizon, (sun,)))
    assert not CONCEPTS["sunrise"].holds(Scene(Background(), (sun,)))
    high = SceneObject("circle", "yellow", 16, 6, 8)
    assert CONCEPTS["noon"].holds(Scene(horizon, (high,)))
    assert not CONCEPTS["sunrise"].holds(Scene(horizon, (high,)))
