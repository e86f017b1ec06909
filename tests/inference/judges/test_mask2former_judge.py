"""GenEval's judge on tiny random models of the real classes: what it finds, how it names colours and itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inference.judges.geneval_scoring import ScoreThresholds
from inference.judges.judge import JudgeConfig, judge_images
from inference.judges.mask2former_judge import Mask2FormerJudge, Mask2FormerJudgeConfig
from inference.prompt_grammar import COLORS, parse_prompt
from microworld.family import micro_judge
from schemas.errors import InputError, MissingWeightsError
from schemas.images import decode_mask
from tests.support.tiny_judge import save_tiny_clip, save_tiny_mask2former

IMAGES = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(3)]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    detector, clip = save_tiny_mask2former(folder / "detector"), save_tiny_clip(folder / "clip")
    # Random weights are sure of nothing.
    return Mask2FormerJudgeConfig(str(detector), str(clip), ScoreThresholds(0.0, 0.0), batch_size=2, color_batch_size=4)


@pytest.fixture(scope="module")
def judge(config):
    return Mask2FormerJudge(config)


def test_objects_have_coco_s_names_as_geneval_writes_them_boxes_of_their_masks_and_colours(judge):
    found = judge.find_objects(IMAGES)
    assert len(found) == 3
    objects = [one for objects in found for one in objects]
    assert objects
    assert {one.class_name for one in objects} <= {"person", "computer mouse", "dining table"}
    for one in objects:
        mask = decode_mask(one.mask_png)
        assert mask.shape == (48, 64)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert one.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert one.color in COLORS
        assert 0 <= one.score <= 1
    assert all([o.score for o in one] == sorted((o.score for o in one), reverse=True) for one in found)


def test_an_image_is_judged_alike_alone_and_among_others_of_any_size(config, tmp_path):
    folder = Path(shutil.copytree(config.detector, tmp_path / "detector"))
    described = folder / "preprocessor_config.json"
    sized = json.loads(described.read_text()) | {"size": {"shortest_edge": 64, "longest_edge": 128}}
    described.write_text(json.dumps(sized))  # images keep their aspect: a batch of several is padded
    judge = Mask2FormerJudge(replace(config, detector=str(folder)))
    images = [IMAGES[0], np.ascontiguousarray(IMAGES[1].transpose(1, 0, 2)), IMAGES[2], IMAGES[1][:32, :32]]
    alone = [judge.find_objects([image])[0] for image in images]
    together = judge.find_objects(images)
    assert [{decode_mask(o.mask_png or b"").shape for o in one} for one in together] == [{i.shape[:2]} for i in images]
    assert [[(o.class_name, o.box, o.color) for o in one] for one in alone] == [
        [(o.class_name, o.box, o.color) for o in one] for one in together
    ]


def test_colours_are_named_only_where_a_prompt_asks_for_one(judge):
    names = {o.class_name for objects in judge.find_objects(IMAGES) for o in objects}
    name = sorted(names)[0]
    with_color, without = parse_prompt(f"a photo of a red {name}"), parse_prompt(f"a photo of a {name}")
    for prompt, expected in ((with_color, {name}), (without, set())):
        found = judge.find_objects(IMAGES, [prompt] * 3)
        assert {o.class_name for objects in found for o in objects if o.color} == expected
        plain = [[(o.class_name, o.box) for o in objects] for objects in judge.find_objects(IMAGES)]
        assert [[(o.class_name, o.box) for o in objects] for objects in found] == plain


def test_the_search_s_configuration_names_only_the_judge_that_is_used(config):
    from schemas.configuration import model_names

    both = replace(micro_judge(), kind="mask2former", mask2former=config)
    assert model_names(both.only_what_is_used()) == (config.detector, config.clip)
    assert model_names(replace(both, kind="segmentation").only_what_is_used()) == ("micro/judge",)
    assert model_names(JudgeConfig().only_what_is_used()) == model_names(Mask2FormerJudgeConfig())
    assert "not GenEval's own" in both.label
    assert isinstance(both.only_what_is_used().open(), Mask2FormerJudge)
    with pytest.raises(InputError, match="no configuration"):
        replace(both.only_what_is_used(), kind="segmentation").open()


def test_verdicts_follow_from_the_objects(judge):
    found = judge.find_objects(IMAGES)
    name = max({o.class_name for o in found[0]}, key=[o.class_name for o in found[0]].count)
    number = min(sum(o.class_name == name for o in found[0]), 6)
    words = ("a", "two", "three", "four", "five", "six")
    text = f"a photo of {words[number - 1]} {name}{'s' if number > 1 else ''}"
    checks = judge_images(judge, [IMAGES[0], np.zeros((48, 64, 3), np.uint8)], [parse_prompt(text)] * 2)
    enough = not any("expected" in reason and ">=" in reason for reason in checks[0].reasons)
    assert enough


def test_what_is_missing_or_of_another_kind_is_said(config, tmp_path):
    with pytest.raises(MissingWeightsError, match="mask2former-swin-small"):
        Mask2FormerJudge(Mask2FormerJudgeConfig())
    with pytest.raises(InputError, match="another kind"):
        Mask2FormerJudge(replace(config, detector=config.clip))
