"""MM-Grounding-DINO, tiny and random, through the detector of GroundingDINO: its folder says which it is."""

import json

import numpy as np
import pytest

from inference.grounding.grounding_dino import GroundingDinoConfig, GroundingDinoDetector
from schemas.errors import InputError
from tests.support.tiny_models.grounding import save_tiny_mm_grounding_dino

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (48, 96), (64, 64))]
CLASSES = [("cat", "dog"), ("traffic light",), ("bench",)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_mm_grounding_dino(tmp_path_factory.mktemp("mm"))


@pytest.fixture(scope="module")
def detector(folder):
    loose = {"box_threshold": 0.0, "text_threshold": 0.0, "nms_iou": 1.0, "batch_size": 2, "text_length": 16}
    return GroundingDinoDetector(GroundingDinoConfig(str(folder), **loose))


def test_boxes_and_scores_are_those_of_transformers_own_way(folder, detector):
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, MMGroundingDinoForObjectDetection

    model = MMGroundingDinoForObjectDetection.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)("traffic light.", return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(images=[IMAGES[1]], return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=pixels["pixel_values"], **tokens)
    found = detector.detect([IMAGES[1]], [("traffic light",)])[0]
    expected = outputs.logits[0, :, 1:3].sigmoid().amax(1).sort(descending=True).values
    assert len(found) == 20
    assert [d.score for d in found] == pytest.approx(expected.tolist(), abs=2e-4)


def test_results_do_not_depend_on_the_other_rows(detector):
    together = detector.detect(IMAGES, CLASSES)
    assert [detector.detect([image], [names])[0] for image, names in zip(IMAGES, CLASSES, strict=True)] == together
    assert {d.class_name for d in together[0]} <= {"cat", "dog"}


def test_another_model_is_told(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": "bert"}))
    with pytest.raises(InputError, match="a 'bert' model"):
        GroundingDinoDetector(GroundingDinoConfig(str(tmp_path)))
