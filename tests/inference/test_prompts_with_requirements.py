"""Verifiers that read requirements take what a prompt file says, and the words only where it says nothing."""

import json
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from commands.main import main
from commands.runs import open_run
from inference.interfaces import ChatAnswer, ReadsRequirements, verify_records
from inference.prompt_grammar import parse_prompt, record_of, tag_of, with_requirements
from inference.search import SearchConfig, SearchTrace, next_round
from inference.verifier import MeanVerifier, VerifierKind, scores_of
from inference.vlm.criteria import RUBRICS
from inference.vlm.prompted_verifier import PromptedVerifier
from microworld.family import micro_vlm
from microworld.scenes.world import Background, Scene, SceneObject, render
from pipelines.evaluation import read_rows
from pipelines.search_job import SearchJobConfig
from pipelines.stages.draft_round import trace_of
from recipes import micro
from schemas.errors import InputError
from schemas.records import ObjectClause, PromptRecord, PromptRow
from tests.support.scripted_search import Bright, tools

TWO_STARS = PromptRecord(
    "p", "Stars at night, two of them", "rule", "counting", (ObjectClause("star", 2),), (ObjectClause("star", 3),)
)
MISLEADING = replace(TWO_STARS, text="a photo of a blue ring")


def scene(*objects: tuple[str, str, float, float]) -> np.ndarray:
    return render([Scene(Background(), tuple(SceneObject(s, c, x, y, 12) for s, c, x, y in objects))]).images[0]


IMAGES = [
    scene(("star", "red", 8, 16), ("star", "yellow", 24, 16)),
    scene(("ring", "blue", 16, 16)),
    scene(("star", "red", 16, 16)),
]


def opened(*kinds: VerifierKind) -> Any:
    return replace(micro.verifier(), kinds=kinds).only_what_is_used(micro_vlm()).open()


def test_clauses_of_a_file_come_before_what_the_words_tell():
    assert with_requirements(TWO_STARS) is TWO_STARS
    told = with_requirements(PromptRecord("p", "a photo of a blue ring", "general"))
    assert (told.prompt_id, told.subset, told.tag) == ("p", "general", "colors")
    assert told.include == parse_prompt("a photo of a blue ring").include
    assert with_requirements(PromptRecord("p", "a photo of a ring", "rule", "position")).tag == "position"
    with pytest.raises(InputError, match="cannot tell what 'Stars at night"):
        with_requirements(record_of(TWO_STARS.text))
    assert [tag_of(one) for one in (MISLEADING, record_of(MISLEADING.text), record_of("Fog."))] == [
        "counting",
        "colors",
        None,
    ]


@pytest.mark.parametrize("kind", ["rules", "judge"])
def test_images_are_checked_against_the_file_s_clauses_whatever_the_words_are(kind):
    verifier = opened(kind)
    assert isinstance(verifier, ReadsRequirements)
    plain = verifier.score(IMAGES, ["a photo of two stars"] * 3)
    for record in (TWO_STARS, MISLEADING):
        opinions = verify_records(verifier, IMAGES, [record] * 3)
        scores = scores_of(opinions)
        assert scores.argmax() == 0
        assert (scores[0], scores[2]) == (plain[0], plain[2])
        assert [one.cost.verifier_calls for one in opinions] == [1, 1, 1]
    with pytest.raises(InputError, match="cannot tell what"):
        verify_records(verifier, IMAGES[:1], [record_of(TWO_STARS.text)])


def test_a_prompted_verifier_asks_for_the_criteria_of_the_file_s_tag_and_in_the_file_s_words():
    asked = []

    class Answers:
        def answer(self, requests):
            asked.extend(requests)
            return [ChatAnswer('{"overall_score": 5}', True, 1, 1)] * len(requests)

    verifier = PromptedVerifier(cast(Any, Answers()), "{prompt}: {keys}")
    verify_records(verifier, IMAGES[:2], [TWO_STARS, record_of("a photo of a blue ring")])
    assert [json.loads(one.json_schema)["required"][:3] for one in asked] == [
        list(RUBRICS["counting"]),
        list(RUBRICS["colors"]),
    ]
    assert asked[0].text.startswith(TWO_STARS.text)


def test_a_mean_hands_records_to_those_that_read_them_and_words_to_the_others():
    rules = opened("rules")
    both = MeanVerifier([rules, Bright()])
    opinions = verify_records(both, IMAGES, [TWO_STARS] * 3)
    bright = np.array([image.mean() for image in IMAGES])
    expected = (scores_of(verify_records(rules, IMAGES, [TWO_STARS] * 3)) + bright) / 2
    assert scores_of(opinions) == pytest.approx(expected, rel=1e-5)
    assert [one.cost.verifier_calls for one in opinions] == [2, 2, 2]


def test_a_search_scores_against_the_record_and_draws_the_words():
    seen = []

    class Keeps(Bright):
        def verify_records(self, images, prompts):
            seen.extend(prompts)
            return self.verify(images, [p.text for p in prompts])

    used = tools(verifier=cast(Any, Keeps()))
    searches = [trace_of(PromptRow(TWO_STARS)), SearchTrace("a ring")]
    next_round(searches, 0, SearchConfig(1, 1, "noise"), used, ["a", "b"])
    assert seen == [TWO_STARS, record_of("a ring")]
    assert cast(Any, used.generator).calls[0][0] == [TWO_STARS.text, "a ring"]


def test_a_search_over_a_file_of_free_words_with_clauses_is_verified_by_rules(tmp_path):
    file = tmp_path / "prompts.jsonl"
    said = {"tag": "counting", "include": [{"class": "star", "count": 2}], "prompt": "Stars: exactly two, please"}
    file.write_text(json.dumps(said) + "\n")
    run = str(tmp_path / "run")
    arguments = ["--prompts", str(file), "--search.strategy", "noise", "--search.width", "1", "--search.depth", "1"]
    arguments += ["--tools.verifier.kinds", "rules", "--also-score", "judge", "--num-threads", "1", "--quiet"]
    assert main(["search", "--run", run, *arguments]) == 0
    folder, config = open_run(run)
    assert isinstance(config, SearchJobConfig)
    (row,) = read_rows(folder, config)
    assert row is not None
    assert [reward.scorer for reward in row.candidates[0].rewards] == ["judge"]
