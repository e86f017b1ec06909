"""Losses, targets and augmentations of the micro detector and segmenter, and that training resumes."""

import json

import numpy as np
import pytest
import torch

from inference.grounding.sam import load_sam
from inference.interfaces import Detection
from microworld.training import grounding_dino, sam
from microworld.training.grounding_data import AugmentationConfig, GroundingBatch, make_batch
from microworld.training.grounding_dino import (
    DOT_ID,
    GroundingDinoRecipe,
    build_image_processor,
    build_model,
    build_tokenizer,
    decoder_loss,
    dense_loss,
    draw_texts,
    encode_texts,
    make_labels,
    to_pixel_values,
)
from microworld.training.grounding_evaluation import average_precision, box_iou
from microworld.training.training_loop import MicroTrainingConfig

TINY = GroundingDinoRecipe(hidden=32, swin_dim=16, swin_depths=(1, 1, 1), encoder_layers=1, num_queries=6, batch_size=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(TINY)


def forward(model, batch, texts):
    ids = encode_texts(texts)
    model.loss_function = decoder_loss
    return ids, model(
        pixel_values=to_pixel_values(batch.images, 64),
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        labels=make_labels(batch, texts),
    )


def test_each_image_is_trained_on_its_own_text(model):
    """The loss of a batch with different texts is the box-weighted mean of the losses of its images alone."""
    batch = make_batch(np.random.default_rng(3), 3, None)
    texts = [
        tuple(dict.fromkeys((*shapes, extra)))
        for shapes, extra in zip(batch.shapes, ("ring", "star", "cross"), strict=True)
    ]
    together = forward(model, batch, texts)[1].loss.item()
    total = boxes = 0.0
    for i in range(3):
        one = GroundingBatch(batch.images[i : i + 1], batch.shapes[i : i + 1], batch.boxes[i : i + 1], [])
        total += forward(model, one, texts[i : i + 1])[1].loss.item() * len(batch.boxes[i])
        boxes += len(batch.boxes[i])
    assert together == pytest.approx(total / boxes, rel=1e-3)


def test_the_dense_loss_is_least_for_the_truth():
    class Outputs:
        pass

    box = np.array([[8, 8, 16, 16]], np.float32)  # one cell of stride 8 in 64 px: 4 px of 32
    batch = GroundingBatch(np.zeros((1, 32, 32, 3), np.uint8), [("star",)], [box], [])
    ids = encode_texts([("ring", "star")])
    labels = make_labels(batch, [("ring", "star")])
    outputs = Outputs()
    outputs.enc_outputs_class = torch.full((1, 64 + 16 + 4, 20), -9.0)
    outputs.enc_outputs_coord_logits = torch.logit(labels[0]["boxes"]).expand(1, 84, 4)
    missed = dense_loss(outputs, labels, ids, 64)
    outputs.enc_outputs_class[0, :, 3] = 9.0  # [CLS] ring . star
    everywhere = dense_loss(outputs, labels, ids, 64)
    outputs.enc_outputs_class = torch.full((1, 84, 20), -9.0)
    y, x = np.mgrid[:8, :8]
    inside = (np.abs(x + 0.5 - 3) <= 0.71) & (np.abs(y + 0.5 - 3) <= 0.71)  # four cells around the centre (12, 12) px
    cells = [*np.flatnonzero(inside), 64 + 1 * 4 + 1]  # and the cell of stride 16 that the box fills
    outputs.enc_outputs_class[0, cells, 3] = 9.0
    right = dense_loss(outputs, labels, ids, 64)
    assert right < 1e-2 < min(missed, everywhere)


def test_labels_name_only_what_is_asked_for():
    batch = GroundingBatch(
        np.zeros((1, 32, 32, 3), np.uint8), [("star", None, "ring")], [np.array([[0, 0, 16, 8]] * 3, np.float32)], []
    )
    labels = make_labels(batch, [("cross", "ring")])[0]
    assert labels["class_labels"].tolist() == [1]
    assert labels["boxes"].tolist() == [[0.25, 0.125, 0.5, 0.25]]


def test_texts_hold_absent_classes_and_fit(model):
    rng = np.random.default_rng(0)
    batch = make_batch(rng, 200, AugmentationConfig())
    texts = draw_texts(rng, batch, 0.1)
    ids = encode_texts(texts)
    assert all(len(set(words)) == len(words) >= 1 for words in texts)
    assert (ids[:, -1] == 0).all()
    absent = sum(word not in shapes for words, shapes in zip(texts, batch.shapes, strict=True) for word in words)
    assert absent > 200


def test_own_encoding_is_the_tokenizers_and_the_processors():
    tokens = build_tokenizer()("circle. zebra. star.", padding="max_length", max_length=20)["input_ids"]
    assert tokens == encode_texts([("circle", "", "star")])[0].tolist()
    assert build_tokenizer().convert_tokens_to_ids(".") == DOT_ID
    image = make_batch(np.random.default_rng(0), 1, None).images
    processed = build_image_processor(TINY)(images=list(image), return_tensors="pt")["pixel_values"]
    assert (processed - to_pixel_values(image, 64)).abs().max() < 0.02  # the processor rounds to whole grey levels


def test_malformed_objects_have_no_class_and_two_tone_ones_keep_theirs():
    every = AugmentationConfig(chimera_share=1.0, two_tone_share=0.0, blur_share=0.0, noise_share=0.0)
    assert {s for shapes in make_batch(np.random.default_rng(0), 8, every).shapes for s in shapes} == {None}
    two_tone = AugmentationConfig(chimera_share=0.0, two_tone_share=1.0, blur_share=0.0, noise_share=0.0)
    changed, clean = (make_batch(np.random.default_rng(0), 8, c) for c in (two_tone, None))
    assert None not in {s for shapes in changed.shapes for s in shapes}
    first = make_batch(np.random.default_rng(0), 8, None)
    assert np.array_equal(first.images, clean.images)
    assert not np.array_equal(changed.images, clean.images)


def test_average_precision_by_hand():
    truth = [(("star", "ring"), np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32))]
    right, far, twice = (0.0, 0.0, 10.0, 9.0), (5.0, 5.0, 15.0, 15.0), (0.0, 0.0, 10.0, 10.0)
    assert box_iou(np.array([right]), np.array([twice]))[0, 0] == pytest.approx(0.9)
    assert average_precision([[Detection("star", 0.9, right)]], truth, "star") == 1.0
    ranked = [Detection("star", 0.9, far), Detection("star", 0.8, right), Detection("star", 0.7, twice)]
    assert average_precision([ranked], truth, "star") == 0.5  # the hit comes second; the duplicate adds no recall
    assert average_precision([ranked], truth, "ring") == 0.0


def test_the_best_mask_alone_of_three_is_trained():
    logits = torch.full((1, 4, 8, 8), -4.0, requires_grad=True)
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4, :] = 1
    better = logits.clone()
    better[0, 2, :4] = 4.0
    loss, iou = sam.mask_loss(better, target, torch.zeros(1, 4))
    loss.backward()
    moved = logits.grad[0].abs().sum((1, 2)) > 0
    assert moved.tolist() == [True, False, True, False]
    assert iou.item() == 0.0  # of the single mask


def test_trainings_resume_and_write_models_that_load(tmp_path):
    def config(minutes: float) -> MicroTrainingConfig:
        return MicroTrainingConfig(minutes=minutes, work_dir=tmp_path / "work", out_dir=tmp_path / "out", num_threads=1)

    recipe = sam.SamRecipe(batch_size=2)
    sam.train(config(0.002), recipe)
    before = torch.load(tmp_path / "work" / "sam.pt", weights_only=True)["clock"]
    sam.train(config(before["spent_s"] / 60 + 0.002), recipe)
    after = torch.load(tmp_path / "work" / "sam.pt", weights_only=True)["clock"]
    assert after["num_steps"] > before["num_steps"] > 0
    assert after["spent_s"] > before["spent_s"]
    assert load_sam(str(tmp_path / "out" / "sam")).image_encoder.img_size == 32
    assert json.loads((tmp_path / "work" / "sam_curve.json").read_text())
    grounding_dino.train(config(0.002), TINY)
    assert (tmp_path / "out" / "grounding_dino" / "tokenizer.json").exists()
