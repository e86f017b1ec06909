"""SAM 2 and SAM 3, tiny and random: the masks of transformers' own processors, whatever else is asked."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.grounding.sam2 import Sam2Config, Sam3Config
from inference.grounding.segmenter import SegmenterConfig
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_models.grounding import (
    save_tiny_sam2,
    save_tiny_sam2_video,
    save_tiny_sam3,
    save_tiny_sam3_video,
)

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (48, 96), (100, 40), (3, 5))]
BOXES = [
    np.array([[4.0 + i, 4, 30 + i, 50] for i in range(6)], np.float32),
    np.zeros((0, 4), np.float32),
    np.array([[0, 0, 20, 90], [5, 5, 39, 99]], np.float32),
    np.array([[0, 0, 3, 3]], np.float32),
]


@pytest.fixture(scope="module", params=["sam2", "sam2-video", "sam3", "sam3-video"])
def config(request, tmp_path_factory) -> Any:
    save, kind = {
        "sam2": (save_tiny_sam2, Sam2Config),
        "sam2-video": (save_tiny_sam2_video, Sam2Config),
        "sam3": (save_tiny_sam3, Sam3Config),
        "sam3-video": (save_tiny_sam3_video, Sam3Config),
    }[request.param]
    return kind(str(save(tmp_path_factory.mktemp("sam") / request.param)), box_batch=4, device="cpu")


@pytest.fixture(scope="module")
def masks(config):
    return config.open().segment(IMAGES, BOXES)


def test_one_mask_a_box_of_the_image_s_size(masks):
    assert [mask.shape for mask in masks] == [(6, 64, 64), (0, 48, 96), (2, 100, 40), (1, 3, 5)]
    assert all(mask.dtype == bool for mask in masks)
    assert 0 < masks[0].mean() < 1


def test_masks_do_not_depend_on_the_other_images_and_boxes(config, masks):
    segmenter = config.open()
    for i in range(len(IMAGES)):
        assert (segmenter.segment([IMAGES[i]], [BOXES[i]])[0] == masks[i]).all()
    assert (segmenter.segment(IMAGES[::-1], BOXES[::-1])[-1] == masks[0]).all()
    wider = replace(config, box_batch=8).open().segment(IMAGES[:1], BOXES[:1])[0]
    assert (wider != masks[0]).mean() < 0.001
    assert segmenter.segment([], []) == []


def test_masks_are_those_of_transformers_own_way(config, masks):
    import torch
    import transformers

    is_sam2 = isinstance(config, Sam2Config)
    image_processor: Any = transformers.AutoImageProcessor.from_pretrained(config.model)
    kind = transformers.Sam2Processor if is_sam2 else transformers.Sam3TrackerProcessor
    side = image_processor.size["height"]
    processor: Any = kind(image_processor, target_size=side)
    classes = transformers.Sam2Model if is_sam2 else transformers.Sam3TrackerModel
    model: Any = classes.from_pretrained(config.model).eval()
    for i in (0, 2):
        inputs = processor(images=IMAGES[i], input_boxes=[BOXES[i].tolist()], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs, multimask_output=False)
        (expected,) = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])
        assert (expected[:, 0].numpy() != masks[i]).mean() < 0.001


def test_the_published_layout_holds_the_same_model(tmp_path):
    folders = [save(tmp_path / name) for name, save in (("own", save_tiny_sam3), ("published", save_tiny_sam3_video))]
    own, published = (Sam3Config(str(f), device="cpu").open().segment(IMAGES[:1], BOXES[:1])[0] for f in folders)
    assert (own == published).all()


def test_bad_input_is_told(config, tmp_path):
    with pytest.raises(ValueError, match="4 images with 1 sets"):
        config.open().segment(IMAGES, BOXES[:1])
    with pytest.raises(MissingWeightsError, match="nowhere/sam"):
        replace(config, model="nowhere/sam").open()
    with pytest.raises(InputError, match="at least 1"):
        replace(config, box_batch=0).open()
    other = Sam3Config if isinstance(config, Sam2Config) else Sam2Config
    with pytest.raises(InputError, match="is a 'sam"):
        other(config.model).open()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="transformers' format"):
        replace(config, model=str(tmp_path)).open()


def test_the_seam_opens_them(config):
    is_sam2 = isinstance(config, Sam2Config)
    seam = SegmenterConfig("sam2", sam2=config) if is_sam2 else SegmenterConfig("sam3", sam3=config)
    seam = seam.only_what_is_used()
    assert seam.sam is None
    assert (seam.open().segment(IMAGES[:1], BOXES[:1])[0]).shape == (6, 64, 64)
