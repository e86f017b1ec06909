"""groundingdino-py at tiny size: the detector against the package's own transforms and forward pass."""

import copy
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from inference.grounding.grounding_dino import GroundingDinoConfig
from inference.grounding.groundingdino_py import GroundingDinoPyDetector, target_size
from inference.grounding.groundingdino_py_loading import load_grounding_dino, read_weights
from schemas.errors import InputError, MissingWeightsError
from tests.support.tiny_models import save_tiny_bert, save_tiny_grounding_dino


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> GroundingDinoConfig:
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_tiny_bert(folder / "bert")
    dino = save_tiny_grounding_dino(folder / "dino", bert)
    return GroundingDinoConfig(
        model=str(dino),
        backend="groundingdino-py",
        text_encoder=str(bert),
        box_threshold=0.0,
        text_threshold=0.0,
        nms_iou=1.0,
        batch_size=2,
        text_length=16,
    )


@pytest.fixture(scope="module")
def detector(config) -> GroundingDinoPyDetector:
    return GroundingDinoPyDetector(config)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def package_outputs(config: GroundingDinoConfig, image: np.ndarray, caption: str) -> dict[str, torch.Tensor]:
    """One image, unpadded, through the package's own transform, tokenizer call and forward."""
    from groundingdino.datasets import transforms as T

    network, resize = load_grounding_dino(config.model, config.text_encoder, config.text_length)
    assert resize == (64, 96)
    network.tokenizer = network.tokenizer.tokenizer  # as the package has it: padded to the longest of the batch
    transform = T.Compose(
        [
            T.RandomResize([64], max_size=96),
            T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pixels: Any = transform(Image.fromarray(image), None)[0]
    with torch.no_grad():
        return network(pixels[None], captions=[caption])


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (40, 120)])
def test_boxes_and_scores_are_those_of_the_package(config, detector, shape):
    image = picture(1, *shape)
    outputs = package_outputs(config, image, "traffic light . cat .")
    probabilities = outputs["pred_logits"][0].sigmoid()
    light, cat = probabilities[:, 1:3], probabilities[:, 4:5]  # [CLS] traffic light . cat . [SEP]
    is_cat = cat.mean(1) > light.mean(1)
    scores = torch.where(is_cat, cat.amax(1), light.amax(1))
    centre, size = outputs["pred_boxes"][0].split(2, 1)
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1).clamp(0, 1) * torch.tensor([shape[1], shape[0]] * 2)

    (found,) = detector.detect([image], [["Traffic light", "cat"]])

    order = scores.argsort(descending=True)
    assert len(found) == len(order)
    np.testing.assert_allclose([d.score for d in found], scores[order], atol=1e-4)
    np.testing.assert_allclose([d.box for d in found], boxes[order], atol=1e-4 * max(shape))
    assert [d.class_name for d in found] == ["cat" if c else "Traffic light" for c in is_cat[order]]


def test_an_image_gets_the_same_boxes_whatever_runs_beside_it(detector):
    images = [picture(seed, 48, 64) for seed in range(3)] + [picture(9, 64, 48)]
    asked = [["cat"], ["dog", "red apple"], ["traffic light"], ["cat", "car"]]
    together = detector.detect(images, asked)
    assert together == detector.detect(images, asked)
    for i, image in enumerate(images):
        (alone,) = detector.detect([image], [asked[i]])
        np.testing.assert_allclose([d.box for d in alone], [d.box for d in together[i]], atol=1e-3)
        height, width = image.shape[:2]
        assert together[i]
        for detection in together[i]:
            x0, y0, x1, y1 = detection.box
            assert 0 <= x0 <= x1 <= width
            assert 0 <= y0 <= y1 <= height
            assert detection.class_name in asked[i]


def test_overlapping_boxes_of_one_class_become_one(config, detector):
    image = picture(3, 48, 64)
    (all_boxes,) = detector.detect([image], [["cat"]])
    strict = copy.copy(detector)
    strict.config = replace(config, nms_iou=0.3)
    (kept,) = strict.detect([image], [["cat"]])
    assert 0 < len(kept) < len(all_boxes)
    assert kept[0] == all_boxes[0]


def test_classes_that_do_not_fit_one_caption_are_asked_in_several(config, detector):
    names = ["red cat", "green dog", "blue apple", "red bench", "traffic light", "green car"]
    captions = detector._captions(names)
    assert len(captions) == 2
    for caption in captions:
        ids = detector._tokenizer(caption.text)["input_ids"]
        assert len(ids) <= config.text_length
        words = [detector._tokenizer.decode(ids[a:b]) for a, b in caption.spans]
        assert words == list(caption.class_names)
    with pytest.raises(InputError, match="cannot be looked for"):
        detector.detect([picture(0, 32, 32)], [["..."]])


@pytest.mark.parametrize(
    ("size", "expected"), [((1024, 1024), (800, 800)), ((480, 640), (800, 1066)), ((400, 1600), (333, 1332))]
)
def test_target_sizes_are_the_demos(size, expected):
    assert target_size(size[0], size[1], 800, 1333) == expected


def test_a_checkpoint_that_needs_unpickling_is_refused(tmp_path):
    path = tmp_path / "groundingdino_swint_ogc.pth"
    marker = tmp_path / "ran"
    path.write_bytes(pickle.dumps({"model": _Runs(str(marker))}))
    with pytest.raises(InputError, match="could run code"):
        read_weights(path)
    assert not marker.exists()


class _Runs:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_published_files_are_read_as_they_are_and_others_are_not(config, tmp_path):
    network, _ = load_grounding_dino(config.model, config.text_encoder, 16)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    # In the published files too, and harmless.
    state |= {"module.label_enc.weight": torch.zeros(1), "module.bert.embeddings.position_ids": torch.zeros(1)}
    torch.save({"model": state}, tmp_path / "groundingdino_tiny.pth")
    folder = tmp_path / "dino"
    shutil.copytree(config.model, folder)
    read = read_weights(tmp_path / "groundingdino_tiny.pth")
    save_file({name: value.clone() for name, value in read.items()}, folder / "model.safetensors")
    again, _ = load_grounding_dino(str(folder), config.text_encoder, 16)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items())

    weights = network.state_dict() | {"feat_map.bias": torch.zeros(3)}
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match="not the weights of this GroundingDINO"):
        load_grounding_dino(str(folder), config.text_encoder, 16)
    del weights["feat_map.bias"]
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(InputError, match="1 missing, 0 unexpected"):
        load_grounding_dino(str(folder), config.text_encoder, 16)


def test_missing_weights_say_how_to_get_them(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="bert-base-uncased"):
        GroundingDinoPyDetector(replace(config, text_encoder="google-bert/bert-base-uncased"))
    with pytest.raises(MissingWeightsError, match="groundingdino_swint_ogc"):
        GroundingDinoPyDetector(replace(config, model="groundingdino_swint_ogc.pth"))


def test_importing_the_module_imports_no_torch():
    code = "import sys, inference.grounding.groundingdino_py as m; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
