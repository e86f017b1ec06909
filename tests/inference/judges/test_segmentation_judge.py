"""From label maps to objects, and the judge on random weights: shapes, sizes, what a verdict depends on."""

from dataclasses import replace

import numpy as np
import pytest

from inference.judges.segmentation_judge import (
    COLOR_INPUT_PX,
    GREY,
    SegmentationJudge,
    paste_on_grey,
    regions_of,
)
from inference.prompt_grammar import parse_prompt
from microworld.family import micro_segmentation_judge
from schemas.errors import InputError, MissingWeightsError
from schemas.images import decode_mask

CLASSES = ("background", "star", "ring", "malformed")


def label_map(*patches: tuple[int, slice, slice], sure: float = 1.0) -> np.ndarray:
    """Probabilities (4, 32, 32) of a map that is background but for rectangular patches of one class each."""
    labels = np.zeros((32, 32), int)
    for number, rows, columns in patches:
        labels[rows, columns] = number
    rest = (1 - sure) / 3
    return np.where(np.arange(4)[:, None, None] == labels, sure, rest).astype(np.float32)


def test_shapes_that_stand_apart_are_objects_of_their_own():
    found = regions_of(label_map((1, slice(2, 10), slice(2, 10)), (1, slice(2, 10), slice(12, 20))), CLASSES, 0.012)
    assert [(r.class_name, round(r.score, 3), int(r.mask.sum())) for r in found] == [("star", 1.0, 64)] * 2


def test_two_shapes_grown_together_are_one_object_that_counts_as_none():
    found = regions_of(label_map((1, slice(2, 10), slice(2, 10)), (2, slice(2, 10), slice(10, 18))), CLASSES, 0.012)
    assert [round(r.score, 3) for r in found] == [0.25]
    corner = regions_of(label_map((1, slice(2, 10), slice(2, 10)), (2, slice(10, 18), slice(10, 18))), CLASSES, 0.012)
    assert len(corner) == 1


def test_malformed_pixels_lower_the_score_of_the_shape_they_belong_to():
    clean = label_map((1, slice(4, 14), slice(4, 14)), sure=0.97)
    bitten = label_map((1, slice(4, 14), slice(4, 14)), (3, slice(4, 14), slice(12, 14)), sure=0.97)
    scores = [regions_of(probabilities, CLASSES, 0.012)[0].score for probabilities in (clean, bitten)]
    assert scores[0] > 0.95
    assert scores[1] < 0.7


def test_specks_are_no_objects():
    assert regions_of(label_map((1, slice(2, 5), slice(2, 5))), CLASSES, 0.012) == []
    assert len(regions_of(label_map((1, slice(2, 5), slice(2, 5))), CLASSES, 0.008)) == 1


def test_an_object_is_pasted_on_grey_and_cropped_to_its_box():
    image = np.full((32, 32, 3), 50, np.uint8)
    image[4:12, 8:16] = (222, 32, 38)
    mask = np.zeros((32, 32), bool)
    mask[4:12, 8:12] = True
    crop = paste_on_grey(image, mask)
    assert crop.shape == (COLOR_INPUT_PX, COLOR_INPUT_PX, 3)
    assert (crop == (222, 32, 38)).all()
    mask[4, 15] = True  # the box grows, and what the mask leaves out is grey
    assert (paste_on_grey(image, mask)[-1, -1] == GREY).all()
    assert (paste_on_grey(image, np.zeros((32, 32), bool)) == GREY).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch

    from microworld.training.judge import JudgeRecipe, build_color_classifier, build_detector, save

    root = tmp_path_factory.mktemp("judge")
    recipe = JudgeRecipe(detector_dims=(8, 16), detector_depths=(1, 1), head_dim=8, color_dims=(8, 16))
    torch.manual_seed(2)
    for name, model, side in (
        ("detector", build_detector(recipe), recipe.input_px),
        ("color", build_color_classifier(recipe), COLOR_INPUT_PX),
    ):
        (root / name).mkdir()
        save(model, side, root / name)
    return root


@pytest.fixture(scope="module")
def judge(folder):
    return SegmentationJudge(micro_segmentation_judge(model=str(folder), batch_size=4))


IMAGES = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8) for i in range(6)]


def test_what_is_found_does_not_depend_on_the_batch(judge):
    together = judge.find_objects(IMAGES)
    assert any(together)
    for index in (0, 5):
        assert judge.find_objects([IMAGES[index]])[0] == together[index]
    assert judge.find_objects([]) == []


def test_boxes_and_masks_are_in_pixels_of_the_image(judge):
    large = [image.repeat(2, axis=0).repeat(3, axis=1) for image in IMAGES]
    for objects in judge.find_objects(large):
        for found in objects:
            mask = decode_mask(found.mask_png)
            rows, columns = np.nonzero(mask)
            assert mask.shape == (64, 96)
            assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert found.class_name in judge.class_names
            assert found.color in judge.color_names


def test_the_verdict_is_geneval_s_over_what_was_found(judge):
    prompts = [parse_prompt("a photo of two stars")] * len(IMAGES)
    strict = judge.judge(IMAGES, prompts)
    assert not any(check.correct for check in strict)  # random weights are sure of nothing
    assert all(check.reasons for check in strict)
    with pytest.raises(InputError, match="6 images with 1 prompts"):
        judge.judge(IMAGES, prompts[:1])


def test_wrong_folders_are_told_apart(folder, tmp_path):
    config = micro_segmentation_judge(model=str(folder))
    with pytest.raises(MissingWeightsError, match="detector"):
        SegmentationJudge(replace(config, model=str(tmp_path)))
    (tmp_path / "detector").symlink_to(folder / "color")
    (tmp_path / "color").symlink_to(folder / "color")
    with pytest.raises(InputError, match="another kind"):
        SegmentationJudge(replace(config, model=str(tmp_path)))
