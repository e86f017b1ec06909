"""SAM from segment-anything's own classes: the shipped micro weights, the official layouts, and refused files."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inference.grounding.sam import OFFICIAL, SamArchitecture, SamSegmenter, build_sam, decode_boxes, load_sam
from microworld.family import micro_sam
from microworld.scenes.world import random_scene, render
from schemas.errors import InputError, MissingWeightsError

CONFIG = micro_sam()


@pytest.fixture(scope="module")
def segmenter() -> SamSegmenter:
    return SamSegmenter(CONFIG)


@pytest.fixture(scope="module")
def rendered():
    rng = np.random.default_rng(11)
    return render([random_scene(rng) for _ in range(24)])


def test_masks_of_true_boxes_are_the_objects(segmenter, rendered):
    masks = segmenter.segment(list(rendered.images), rendered.boxes)
    overlaps = [
        (a & b).sum() / (a | b).sum()
        for found, wanted in zip(masks, rendered.masks, strict=True)
        for a, b in zip(found, wanted, strict=True)
    ]
    assert np.mean(overlaps) > 0.88


def test_results_do_not_depend_on_the_other_rows(segmenter, rendered):
    images, boxes = list(rendered.images), rendered.boxes
    together = segmenter.segment(images, boxes)
    reverse = segmenter.segment(images[::-1], boxes[::-1])[::-1]
    alone = segmenter.segment(images[:1], boxes[:1])
    assert np.array_equal(alone[0], together[0])
    assert all(np.array_equal(a, b) for a, b in zip(together, reverse, strict=True))


def test_more_boxes_than_a_batch_and_images_without_any(rendered):
    small = SamSegmenter(replace(CONFIG, box_batch=3, image_batch=4))
    boxes = [rendered.boxes[0], np.zeros((0, 4), np.float32), *rendered.boxes[2:]]
    masks = small.segment(list(rendered.images), boxes)
    assert [m.shape for m in masks] == [(len(b), 32, 32) for b in boxes]
    assert all(m.any((1, 2)).all() for m in masks if len(m))


def test_an_oblong_image_is_scaled_by_its_longest_side(segmenter, rendered):
    wide = np.concatenate([rendered.images[0], np.full((32, 32, 3), 128, np.uint8)], 1)
    masks = segmenter.segment([wide], [rendered.boxes[0]])[0]
    assert masks.shape == (len(rendered.boxes[0]), 32, 64)
    assert not masks[:, :, 40:].any()


def test_decoding_many_images_is_what_segment_anything_does_one_by_one():
    torch.manual_seed(0)
    tiny = SamArchitecture(32, 8, 16, 1, 2, (0,), 0, 16, 16, 2)
    sam = build_sam(tiny).eval()
    embeddings, boxes = torch.randn(3, 16, 4, 4), torch.tensor([[1.0, 2, 9, 9], [4, 4, 30, 20], [0, 0, 32, 32]])
    with torch.no_grad():
        masks, quality = decode_boxes(sam, embeddings, boxes)
        for i in range(3):
            sparse, dense = sam.prompt_encoder(points=None, boxes=boxes[i : i + 1], masks=None)
            position = sam.prompt_encoder.get_dense_pe()
            expected, expected_quality = sam.mask_decoder.predict_masks(embeddings[i : i + 1], position, sparse, dense)
            expected = sam.postprocess_masks(expected, (32, 32), (32, 32))
            assert torch.allclose(masks[i], expected[0], atol=1e-5)
            assert torch.allclose(quality[i], expected_quality[0], atol=1e-5)


@pytest.mark.parametrize("name", ["vit_h", "vit_l", "vit_b"])
def test_official_checkpoints_have_these_parameters(name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours, theirs = build_sam(OFFICIAL[f"sam_{name}"]).state_dict(), sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    path = tmp_path / "sam_vit_b_evil.pth"
    torch.save({"x": Evil()}, path, pickle_module=pickle)
    with pytest.raises(InputError, match="refused"):
        load_sam(str(path))
    assert not (tmp_path / "was_run").exists()


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match="checkpoint of segment-anything"):
        load_sam(str(tmp_path / "sam_vit_h_4b8939.pth"))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="file name"):
        load_sam(str(tmp_path / "other.safetensors"))
    (tmp_path / "config.json").write_text('{"image_px": 32, "colour": 1}')
    with pytest.raises(InputError, match="SAM configuration"):
        load_sam(str(tmp_path))
