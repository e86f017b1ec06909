"""The micro commonsense set: its judge reads concepts from pixels, and tells the two of a pair apart."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.dual_process.micro_commonsense import (
    CONCEPT_PAIRS,
    MicroDescriptionJudge,
    background_of,
    commonsense_pairs,
    opposite,
)
from inference.judges.commonsense_t2i import pair_accuracy
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import VOCABULARY, caption_of_record, sample_scene
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.world import Scene, random_background, random_scene, render

WORDS = list(dict.fromkeys(word for pairs in CONCEPT_PAIRS.values() for pair in pairs for word in pair))


@pytest.fixture(scope="module")
def judge():
    return MicroDescriptionJudge()


def scene_of_description(description: str, rng: np.random.Generator) -> Scene:
    concept = next((c for c in CONCEPTS.values() if c.description == description), None)
    if concept is not None:
        return concept.sample(rng)
    return sample_scene(rng, caption_of_record(parse_prompt(description)), 0.0)


def test_the_generator_knows_no_concept_word():
    assert set(WORDS) & set(VOCABULARY) == set()
    assert len(WORDS) > 20


def test_the_judge_reads_concepts_and_is_not_fooled_by_near_misses(judge):
    rng = np.random.default_rng(2)
    concepts = [CONCEPTS[word] for word in WORDS for _ in range(4)]
    descriptions = [concept.description for concept in concepts]
    shown, missed = [c.sample(rng) for c in concepts], [c.near_miss(rng) for c in concepts]
    found, wrongly = (judge.shows(list(render(scenes).images), descriptions) for scenes in (shown, missed))
    assert np.mean(found) > 0.85
    assert np.mean(wrongly) < 0.05


def test_scenes_that_are_right_pass_and_swapped_ones_fail(judge):
    rng = np.random.default_rng(3)
    pairs = commonsense_pairs(2)
    images, own, other = [], [], []
    for pair in pairs:
        images += [render([scene_of_description(d, rng)]).images[0] for d in pair.descriptions]
        own += pair.descriptions
        other += pair.descriptions[::-1]
    right, swapped = (judge.fits(images, *both).reshape(len(pairs), 2, 1) for both in ((own, other), (other, own)))
    assert pair_accuracy(right).mean() > 0.75
    assert pair_accuracy(swapped).max() == 0


def test_a_horizon_is_read_from_the_pixels(judge):
    rng = np.random.default_rng(4)
    scenes = []
    for kind in ("plain", "gradient", "horizon") * 8:
        background = replace(random_background(rng, 1.0), kind=kind, top=(110, 120, 130), bottom=(170, 165, 150))
        scenes.append(replace(random_scene(rng, 2), background=background))
    images = list(render(scenes).images)
    for scene, image, objects in zip(scenes, images, judge.judge.find_objects(images), strict=True):
        found = background_of(image, objects)
        assert (found.kind == "horizon") == (scene.background.kind == "horizon")
        if found.kind == "horizon":
            assert abs(found.horizon_px - scene.background.horizon_px) < 1.5


def test_opposites():
    def of(text):
        return opposite(parse_prompt(text))

    assert of("a photo of a star left of a ring") == "a photo of a star right of a ring"
    assert of("a photo of three rings") == "a photo of two rings"
    assert of("a photo of two rings") == "a photo of three rings"
    assert of("a photo of a red ring and a blue star") == "a photo of a blue ring and a red star"


def test_weak_tags_come_from_the_dev_split_unless_it_is_unsealed():
    dev, sealed = commonsense_pairs(4), commonsense_pairs(4, sealed=True)
    assert [pair.category for pair in dev] == [pair.category for pair in sealed]
    positions = [{p.prompts[0] for p in pairs if p.category == "position"} for pairs in (dev, sealed)]
    assert positions[0] & positions[1] == set()
