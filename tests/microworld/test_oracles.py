"""The oracles are bounds: what the reflector says is true of the image, and the corrector does as it is told."""

from dataclasses import replace

import numpy as np
import pytest

from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge
from inference.prompt_grammar import parse_prompt
from inference.search import NOTHING_WRONG, SearchConfig
from inference.vlm.vlm import VlmConfig
from microworld.family import micro_segmentation_judge
from microworld.oracles import OracleCorrector, OracleCritic, OracleToolsConfig
from microworld.scenes.captions import caption_from_clauses, caption_of_record, sample_scene
from microworld.scenes.edits import wrong_scene
from microworld.scenes.world import render
from recipes import catalogue

TEXTS = ("a photo of a red star and a blue ring", "a photo of three hearts", "a photo of a cross left of a square")


def test_oracles_keep_the_table_that_a_search_goes_by():
    tools = replace(catalogue.load("micro", "search").tools, routes="routes.json")
    tools = replace(tools, verifier=replace(tools.verifier, kinds=("atoms",)))
    search = SearchConfig(strategy="reflection", route="learned")
    for oracles in ((), ("corrector",), ("corrector", "reflector")):
        used = OracleToolsConfig.of(tools, oracles).for_search(search, VlmConfig())
        assert (used.routes, used.oracles) == ("routes.json", oracles)
        assert (used.corrector is None) == ("corrector" in oracles)
        assert used.for_search(replace(search, route="correct"), VlmConfig()).routes == ""


@pytest.fixture(scope="module")
def judge():
    return SegmentationJudge(micro_segmentation_judge())


def scenes(wrong: bool):
    rng, images, prompts = np.random.default_rng(3), [], []
    for text in TEXTS:
        caption = caption_of_record(parse_prompt(text))
        for _ in range(8):
            scene = sample_scene(rng, caption_from_clauses(caption.tag, caption.clauses))
            images.append(render([wrong_scene(rng, caption, scene)[1] if wrong else scene]).images[0])
            prompts.append(text)
    return images, prompts


def verdicts(judge, images, prompts):
    limits = judge.config.thresholds
    found = judge.find_objects(images)
    return [judge_objects(parse_prompt(p), objects, limits).correct for p, objects in zip(prompts, found, strict=True)]


def remarks(judge, images, prompts, *, reflect=True, refine=True):
    scores = [0.0] * len(images)
    return OracleCritic(judge).remark(images, prompts, prompts, scores, reflect=reflect, refine=refine)


def test_both_oracles_together_put_nearly_every_wrong_scene_right(judge):
    images, prompts = scenes(wrong=True)
    before = verdicts(judge, images, prompts)
    told = [remark.reflection for remark in remarks(judge, images, prompts)]
    again = OracleCorrector(judge).correct(images, prompts, told, list(range(len(images))))
    after = verdicts(judge, again, prompts)
    assert np.mean(before) <= 0.25  # a surplus object is no fault to GenEval in most prompts
    assert np.mean(after) >= 0.85


def test_right_scenes_are_said_to_be_right_and_stay_so(judge):
    images, prompts = scenes(wrong=False)
    told = [remark.reflection for remark in remarks(judge, images, prompts)]
    assert told.count(NOTHING_WRONG) >= 0.9 * len(told)
    again = OracleCorrector(judge).correct(images, prompts, [NOTHING_WRONG] * len(images), [0] * len(images))
    assert np.mean(verdicts(judge, again, prompts)) >= 0.9


def test_only_what_is_asked_for_is_said(judge):
    images, prompts = scenes(wrong=True)
    assert {r.reflection for r in remarks(judge, images[:4], prompts[:4], reflect=False)} == {""}
    assert [r.prompt for r in remarks(judge, images[:4], prompts[:4], refine=False)] == prompts[:4]
    refined = [r.prompt for r in remarks(judge, images[:4], prompts[:4])]
    assert all(text.startswith(prompt) and text != prompt for text, prompt in zip(refined, prompts[:4], strict=True))


def test_what_is_no_instruction_changes_nothing(judge):
    images, prompts = scenes(wrong=False)
    corrector = OracleCorrector(judge)
    a = corrector.correct(images[:3], prompts[:3], ["Ensure that it is better."] * 3, [1, 2, 3])
    b = corrector.correct(images[:3], prompts[:3], [""] * 3, [4, 5, 6])
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
