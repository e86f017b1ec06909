"""Colours by a tiny random CLIP of the real class: GenEval's arithmetic, one code for the check and for the judge."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inference.grounding.clip_color import ClipColorConfig, ClipColorNamer
from inference.grounding.color_namer import ColorNamerConfig
from inference.grounding.object_crops import paste_and_crop
from inference.judges.geneval_scoring import ScoreThresholds
from inference.judges.mask2former_judge import Mask2FormerJudgeConfig
from inference.prompt_grammar import COLORS
from microworld.family import micro_grounded_sam
from microworld.scenes.world import Background, Scene, SceneObject, render
from schemas.errors import InputError, MissingWeightsError
from schemas.images import decode_mask
from tests.support.tiny_judge import save_tiny_clip, save_tiny_mask2former

IMAGES = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(3)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return ClipColorConfig(str(save_tiny_clip(tmp_path_factory.mktemp("clip"))), batch_size=4)


@pytest.fixture(scope="module")
def namer(config):
    return config.open()


def best_color(namer: ClipColorNamer, crop: np.ndarray, class_name: str) -> str:
    """Worked out one sentence at a time with the model itself, on PIL's image as GenEval has it."""
    import torch

    clip, processor = namer._clip, namer._clip_input

    def embed(**inputs):
        features = clip.get_text_features(**inputs) if "input_ids" in inputs else clip.get_image_features(**inputs)
        vector = features if isinstance(features, torch.Tensor) else features.pooler_output
        return vector / vector.norm(dim=-1, keepdim=True)

    with torch.inference_mode():
        pixels = processor(images=[Image.fromarray(crop)], return_tensors="pt")["pixel_values"]
        image = embed(pixel_values=pixels)[0]
        scores = {}
        for color in COLORS:
            texts = [
                f"a photo of a {color} {class_name}",
                f"a photo of a {color}-colored {class_name}",
                f"a photo of a {color} object",
            ]
            mean = torch.stack([embed(**processor(text=[t], return_tensors="pt"))[0] for t in texts]).mean(0)
            scores[color] = float(mean / mean.norm() @ image)
    return max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("shape", [(20, 10, 3), (9, 31, 3), (3, 10, 3), (1, 12, 3), (1, 1, 3), (12, 1, 3), (3, 3, 3)])
def test_a_colour_is_clip_s_zero_shot_choice_over_three_sentences_however_flat_the_object(namer, shape):
    for seed, class_name in enumerate(("dining table", "person", "mouse")):
        crop = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
        assert namer.name_crops([crop], [class_name]) == [best_color(namer, crop, class_name)]


def random_masks(number: int) -> np.ndarray:
    masks = np.zeros((number, 48, 64), bool)
    for i, mask in enumerate(masks):
        mask[3 + i : 20 + 2 * i, 5 : 30 + 4 * i] = np.random.default_rng(i).random((17 + i, 25 + 4 * i)) > 0.3
    return masks


def test_objects_of_all_images_share_forward_passes_and_each_is_named_as_alone(namer, monkeypatch):
    masks = [random_masks(3), np.zeros((0, 48, 64), bool), random_masks(4)]
    names = [["person"] * 3, [], ["dining table", "person", "mouse", "person"]]
    shapes, features = [], namer._clip.get_image_features

    def counted(pixel_values):
        shapes.append(len(pixel_values))
        return features(pixel_values=pixel_values)

    monkeypatch.setattr(namer._clip, "get_image_features", counted)
    found = namer.name_colors(IMAGES, masks, names)
    assert shapes == [4, 4]  # seven objects in batches of four
    assert [len(colors) for colors in found] == [3, 0, 4]
    for image, of_one, classes, colors in zip(IMAGES, masks, names, found, strict=True):
        alone = [best_color(namer, paste_and_crop(image, m), name) for m, name in zip(of_one, classes, strict=True)]
        assert colors == alone


def test_an_empty_mask_has_no_colour_and_takes_no_other_s(namer):
    masks = random_masks(3)
    masks[1] = False
    (colors,) = namer.name_colors(IMAGES[:1], [masks], [["person"] * 3])
    assert colors[1] == "unknown"
    (others,) = namer.name_colors(IMAGES[:1], [masks[[0, 2]]], [["person"] * 2])
    assert [colors[0], colors[2]] == others
    assert namer.name_colors([], [], []) == []


def test_the_judge_and_the_check_name_the_same_masks_alike(config, tmp_path):
    detector = save_tiny_mask2former(tmp_path / "detector")
    judge = Mask2FormerJudgeConfig(str(detector), config.model, ScoreThresholds(0.0, 0.0), 2, 4).open()
    namer = ColorNamerConfig("clip", config).open()
    found = judge.find_objects(IMAGES)
    masks = [np.array([decode_mask(o.mask_png or b"") for o in objects]) for objects in found]
    named = namer.name_colors(IMAGES, masks, [[o.class_name for o in objects] for objects in found])
    assert [[o.color for o in objects] for objects in found] == named
    assert len({color for colors in named for color in colors}) > 1


def test_grounded_sam_names_by_clip_what_it_has_cut_out(config):
    grounded = replace(micro_grounded_sam(), color=ColorNamerConfig("clip", config)).open()
    scenes = [Scene(Background(), (SceneObject("star", "red", 8, 16, 12), SceneObject("ring", "blue", 24, 16, 12)))]
    (image,) = render(scenes).images
    (objects,) = grounded.find_objects([image], [("star", "ring")])
    assert {o.class_name for o in objects} == {"star", "ring"}
    for one in objects:
        crop = paste_and_crop(image, decode_mask(one.mask_png or b""))
        assert one.color == best_color(config.open(), crop, one.class_name)


def test_an_object_is_pasted_on_grey_and_cropped_to_its_box():
    image = np.full((16, 16, 3), 7, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[2:6, 3:9] = True
    mask[3, 4] = False
    crop = paste_and_crop(image, mask)
    assert crop.shape == (4, 6, 3)
    assert (crop[1, 1] == 0x99).all()
    assert (np.delete(crop.reshape(-1, 3), 7, axis=0) == 7).all()


def test_geneval_s_clip_is_the_default_and_is_asked_for_by_name(config, tmp_path):
    with pytest.raises(MissingWeightsError, match=r"clip-vit-large-patch14' \(1.7 GB"):
        ColorNamerConfig().open()
    assert ColorNamerConfig(kind="pixels").only_what_is_used().clip is None
    with pytest.raises(InputError, match="mask2former model"):
        ClipColorConfig(str(save_tiny_mask2former(tmp_path / "other"))).open()
