"""The shipped micro GroundingDINO: what it finds, and that neighbours in a batch do not matter."""

from dataclasses import replace

import numpy as np
import pytest

from inference.grounding.grounding_dino import GroundingDinoDetector
from microworld.family import micro_dino
from microworld.scenes.world import Background, Scene, SceneObject, render
from schemas.errors import InputError, MissingWeightsError

GREY = Background(top=(140, 140, 140), bottom=(140, 140, 140))
STAR_AND_CIRCLE = Scene(GREY, (SceneObject("star", "red", 8.5, 9, 12), SceneObject("circle", "blue", 23, 22, 11)))
TWO_RINGS = Scene(GREY, (SceneObject("ring", "white", 8, 23, 12), SceneObject("ring", "green", 22, 9, 12)))
CONFIG = micro_dino()


@pytest.fixture(scope="module")
def detector() -> GroundingDinoDetector:
    return GroundingDinoDetector(CONFIG)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(render([STAR_AND_CIRCLE, TWO_RINGS]).images)


def test_finds_what_it_is_asked_for_and_nothing_else(detector, images):
    found = detector.detect([images[0]] * 3 + [images[1]], [("circle",), ("Star", "ring"), ("heart",), ("ring",)])
    assert [[d.class_name for d in one] for one in found] == [["circle"], ["Star"], [], ["ring", "ring"]]
    assert np.allclose(found[0][0].box, (17.5, 16.5, 28.5, 27.5), atol=1.5)
    assert all(CONFIG.box_threshold < d.score <= 1 for one in found for d in one)


def test_results_do_not_depend_on_the_other_rows(detector, images):
    alone = detector.detect(images[:1], [("star", "circle")])[0]
    classes = [("ring",), ("circle", "ring"), ("star", "circle"), ("square",)]
    crowded = detector.detect([images[1], images[1], images[0], images[0]], classes)[2]
    assert crowded == alone


def test_more_classes_than_a_text_holds_are_asked_in_several(images):
    small = GroundingDinoDetector(replace(CONFIG, text_length=8))
    found = small.detect(images[:1], [("ring", "heart", "circle", "cross", "star")])[0]
    assert {d.class_name for d in found} == {"circle", "star"}


def test_no_image_and_no_class(detector, images):
    assert detector.detect([], []) == []
    assert detector.detect(images, [(), ("ring",)])[0] == []
    with pytest.raises(ValueError, match="2 images with 1"):
        detector.detect(images, [("ring",)])


def test_images_of_other_sizes_get_boxes_in_their_own_pixels(detector):
    image = render([STAR_AND_CIRCLE], size_px=64).images[0]
    found = detector.detect([image, image[:32, :32]], [("circle",), ("ring",)])
    assert np.allclose(found[0][0].box, (35, 33, 57, 55), atol=3)


def test_what_cannot_be_looked_for_or_loaded_is_an_error_for_people(detector, images, tmp_path):
    with pytest.raises(InputError, match="cannot be looked for"):
        detector.detect(images[:1], [(" ",)])
    with pytest.raises(MissingWeightsError, match="no weights"):
        GroundingDinoDetector(replace(CONFIG, model=str(tmp_path / "nowhere")))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="GroundingDINO"):
        GroundingDinoDetector(replace(CONFIG, model=str(tmp_path)))
