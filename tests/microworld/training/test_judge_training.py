"""The judge's training data says what a person would, its loss does what it says, and training resumes."""

import shutil

import numpy as np
import pytest
import torch

from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from microworld.scenes.world import COLORS
from microworld.training import judge
from microworld.training.judge_data import (
    IGNORED,
    LABEL_NAMES,
    MIXED,
    NO_SHAPE,
    UNDECIDED_COLOR,
    JudgeDataConfig,
    JudgeImages,
    _judge_touching,
    color_labels,
    make_images,
)
from microworld.training.judge_evaluation import shape_counts, verdict_scenes
from microworld.training.judge_pool import JudgePool
from microworld.training.judge_shapes import (
    EXTENT,
    GRID,
    KINDS,
    MALFORMED,
    SHAPE_NAMES,
    UNDECIDED,
    classify,
    draw_masks,
    draw_shapes,
    measure,
)
from microworld.training.training_loop import MicroTrainingConfig
from microworld.weights_folder import MICRO_WEIGHTS
from schemas.errors import InputError

axis = (np.arange(GRID, dtype=np.float32) + 0.5) * 2 * EXTENT / GRID - EXTENT
X, Y = (np.broadcast_to(a, (8, GRID, GRID)) for a in (axis[None, None], axis[None, :, None]))
CLEAN = draw_shapes(np.arange(8), X, Y)
TINY = judge.JudgeRecipe(
    input_px=64,
    detector_dims=(8, 16),
    detector_depths=(1, 1),
    head_dim=8,
    color_dims=(8, 16),
    batch_size=4,
    color_batch=4,
    chunk_images=12,
    first_chunks=1,
    num_evaluated=12,
)


def test_clean_shapes_are_what_they_are_at_any_size_and_place():
    distances, local = measure(CLEAN)
    assert classify(CLEAN).tolist() == list(range(8))
    assert distances.diagonal().max() < 1e-6
    assert local.diagonal().max() < 1e-6
    smaller = draw_shapes(np.arange(8), X / 0.7 + 0.2, Y / 0.7 - 0.1)
    assert classify(smaller).tolist() == list(range(8))


def test_half_shapes_fused_ones_and_blobs_are_malformed():
    assert (classify(CLEAN & (X > 0)) == MALFORMED).all()
    assert (classify(CLEAN & ~(np.hypot(X - 0.5, Y) < 0.6)) == MALFORMED).all()
    rng = np.random.default_rng(0)
    for kind in ("blob", "fused"):
        _, classes = draw_masks(rng, rng.integers(0, 8, 60), np.array([kind] * 60))
        assert np.isin(classes, (MALFORMED, UNDECIDED)).mean() > 0.9
        assert (classes == MALFORMED).mean() > 0.7


def test_a_shape_barely_damaged_keeps_its_class_and_plain_ones_always_do():
    nibbled = CLEAN & ~(np.hypot(X - 0.3, Y - 0.3) < 0.08)
    assert classify(nibbled).tolist() == list(range(8))
    shapes = np.arange(80) % 8
    masks, classes = draw_masks(np.random.default_rng(1), shapes, np.array(["plain"] * 80))
    assert (classes == shapes).all()
    assert (measure(masks)[0].argmin(1) == shapes).mean() > 0.97


def test_shares_of_kinds_add_up():
    assert sum(share for share, _ in KINDS.values()) == pytest.approx(1)


def test_pixels_are_labelled_as_their_object_is():
    data = make_images(np.random.default_rng(0), 60)
    assert data.images.shape == (60, 32, 32, 3)
    assert set(np.unique(data.labels)) <= {*range(len(LABEL_NAMES)), NO_SHAPE, IGNORED}
    seen = set()
    for labels, instances, classes in zip(data.labels, data.instances, data.classes, strict=True):
        for number in np.unique(instances[instances > 0]):
            of_object = np.unique(labels[instances == number])
            kind = classes[number - 1]
            seen.add(int(kind))
            assert len(of_object) == 1
            assert of_object[0] == (kind + 1 if kind != UNDECIDED else of_object[0])
            assert kind != UNDECIDED or of_object[0] in (IGNORED, NO_SHAPE)
    assert {MALFORMED, UNDECIDED} < seen
    again = make_images(np.random.default_rng(0), 60)
    assert (again.images == data.images).all()


def test_touching_objects_of_one_colour_are_malformed_and_of_two_are_nobody_s_business():
    instances = np.zeros((2, 32, 32), np.uint8)
    instances[:, 4:8, 4:8], instances[:, 8:12, 8:12], instances[:, 20:24, 20:24] = 1, 2, 3
    classes = np.array([[0, 1, 2, UNDECIDED, UNDECIDED]] * 2, np.uint8)
    colors = np.array([[4, 4, 4, 255, 255], [4, 5, 4, 255, 255]], np.uint8)
    _judge_touching(instances, classes, colors)
    assert classes[0, :3].tolist() == [MALFORMED, MALFORMED, 2]
    assert classes[1, :3].tolist() == [UNDECIDED, UNDECIDED, 2]


def test_colours_are_labelled_where_nobody_would_argue():
    palette = np.array(list(COLORS.values()), float)
    assert color_labels(palette).tolist() == list(range(8))
    assert color_labels(palette * 0.95).tolist() == list(range(8))
    grey_and_pink = np.array([(128, 128, 128), (250, 150, 190)], float)
    assert color_labels(grey_and_pink).tolist() == [MIXED, MIXED]
    names = list(COLORS)
    between = 0.7 * palette[names.index("red")] + 0.3 * palette[names.index("orange")]
    assert color_labels(between[None])[0] in (UNDECIDED_COLOR, MIXED, names.index("red"))


def test_the_loss_lets_no_shape_be_background_or_malformed_and_ignores_what_is_undecided():
    labels = torch.tensor([[[NO_SHAPE, IGNORED]]], dtype=torch.uint8)
    logits = torch.zeros(1, 10, 1, 2)
    logits[0, 9, 0, 0] = 30.0
    assert judge.segmentation_loss(logits, labels).item() < 1e-3
    logits[0, 0, 0, 0], logits[0, 9, 0, 0] = 30.0, 0.0
    assert judge.segmentation_loss(logits, labels).item() < 1e-3
    logits[0, 3, 0, 0] = 60.0
    assert judge.segmentation_loss(logits, labels).item() > 10
    everywhere = torch.full((1, 1, 2), IGNORED, dtype=torch.uint8)
    assert judge.segmentation_loss(logits, everywhere).item() == 0
    named = torch.tensor([[[3, 3]]], dtype=torch.uint8)
    assert judge.segmentation_loss(logits, named).item() == pytest.approx(np.log(10) / 2, rel=1e-3)


def test_half_of_the_verdict_scenes_are_wrong_by_one_operation():
    prompts, images, truth = verdict_scenes(6)
    assert len(prompts) == len(images) == 36
    assert all(truth[::2])
    assert (
        8 <= sum(not right for right in truth[1::2]) <= 18
    )  # an extra object of another class is no mistake to GenEval


def test_found_and_accepted_shapes_are_counted_by_overlap_and_class():
    from inference.judges.segmentation_judge import Region

    masks = np.zeros((2, 32, 32), bool)
    masks[0, 4:12, 4:12], masks[1, 20:28, 20:28] = True, True
    instances = (masks[0] + 2 * masks[1]).astype(np.uint8)[None]
    classes = np.array([[3, MALFORMED, UNDECIDED, UNDECIDED, UNDECIDED]], np.uint8)
    truth = JudgeImages(np.zeros((1, 32, 32, 3), np.uint8), instances, instances, classes, classes)
    found = [[Region(SHAPE_NAMES[3], 0.9, masks[0]), Region("star", 0.6, masks[1])]]
    assert shape_counts(found, truth, 0.5) == {"shapes": 1, "found": 1, "malformed": 1, "accepted": 1}
    assert shape_counts(found, truth, 0.7) == {"shapes": 1, "found": 1, "malformed": 1, "accepted": 0}


def test_a_pool_is_found_again_and_grows(tmp_path):
    pool = JudgePool(tmp_path, 3, JudgeDataConfig(), None, chunk=10)
    pool.grow()
    again = JudgePool(tmp_path, 3, JudgeDataConfig(), None, chunk=5)
    again.grow()
    assert (len(pool), len(again)) == (10, 15)
    batch = again.draw(np.random.default_rng(0), 7)
    assert len(batch) == 7
    assert ((batch.instances > 0) | (batch.labels == 0) | (batch.labels == NO_SHAPE)).all()  # mirrored together


def test_training_resumes_and_writes_folders_that_judge(tmp_path):
    def config(minutes: float) -> MicroTrainingConfig:
        return MicroTrainingConfig(minutes=minutes, work_dir=tmp_path / "work", out_dir=tmp_path / "out", num_threads=1)

    with pytest.raises(InputError, match="holds no VAE"):
        judge.train(config(0.001), TINY)
    shutil.copytree(MICRO_WEIGHTS / "flux" / "vae", tmp_path / "out" / "flux" / "vae")
    judge.train(config(0.001), TINY)
    before = torch.load(tmp_path / "work" / "judge_detector.pt", weights_only=True)["clock"]
    judge.train(config(before["spent_s"] / 60 / 0.8 + 0.002), TINY)
    after = torch.load(tmp_path / "work" / "judge_detector.pt", weights_only=True)["clock"]
    assert after["num_steps"] > before["num_steps"] > 0
    trained = SegmentationJudge(micro_segmentation_judge(model=str(tmp_path / "out" / "judge")))
    assert trained.class_names == LABEL_NAMES
    assert trained.color_names == (*COLORS, "mixed")
    # The folders' own processors do what training did.
    images = make_images(np.random.default_rng(5), 3).images
    mine = judge.to_pixel_values(images, TINY.input_px)
    theirs = trained._detector_input(images=list(images), return_tensors="pt")["pixel_values"]
    assert (theirs - mine).abs().max() < 0.01  # the processor rounds to whole grey levels
