"""Ten concepts with other prompts, and the arithmetic of what was learnt beside what was not trained on."""

import numpy as np
import pytest

from benchmarks.dual_process.concept_generalisation import (
    NUM_OTHERS,
    TAGS,
    WORDS,
    changes,
    judged,
    mean_of,
    plot,
    tag_family,
    word_family,
)
from benchmarks.dual_process.micro_commonsense import CONCEPT_PAIRS, MicroDescriptionJudge
from benchmarks.dual_process.taught_images import Drawn
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import caption_of_record, is_reserved
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.evaluation_split import test_prompts
from microworld.scenes.world import render


def test_ten_concepts_of_five_prompts_each():
    found = [*map(word_family, WORDS), *map(tag_family, TAGS)]
    assert len(found) == 10
    for family in found:
        assert len(set(family.prompts)) == len(family.descriptions) == 1 + NUM_OTHERS
        concepts = family.concepts()
        assert [concept.prompt for concept in concepts] == list(family.prompts)
        assert concepts[0].other_prompts == family.prompts[1:]
        assert len({concept.digest for concept in concepts}) == 1 + NUM_OTHERS
        several = family.concepts(3)
        assert [one.prompt for one in several[0].taught] == list(family.prompts[:3])
        assert [one.questions for one in several[0].taught] == [one.questions for one in several[:3]]
        assert several[0].other_prompts == family.prompts[3:]
        assert [one.digest for one in several[1:]] == [one.digest for one in concepts[1:]]


def test_what_is_taught_and_the_others_are_told_apart():
    prompts = [{"prompt": str(n), "before": n / 10} for n in range(5)]
    assert mean_of({"prompts": prompts}, "trained", "before") == 0
    assert mean_of({"prompts": prompts, "taught": 3}, "trained", "before") == pytest.approx(0.1)
    assert mean_of({"prompts": prompts, "taught": 3}, "others", "before") == pytest.approx(0.35)


def test_words_are_ones_that_the_judge_reads_and_are_asked_about_in_one_way():
    readable = {word for pairs in CONCEPT_PAIRS.values() for pair in pairs for word in pair}
    assert set(WORDS) <= readable
    for word in WORDS:
        family = word_family(word)
        assert all(word in prompt for prompt in family.prompts)
        assert len({tuple(q.question for q in concept.questions) for concept in family.concepts()}) == 1


def test_tags_use_no_composition_that_is_kept_for_benchmarks():
    sealed = {record.text for record in test_prompts() if record.tag != "counting"}
    for name in TAGS:
        prompts = tag_family(name).prompts
        assert not set(prompts) & sealed
        assert not any(is_reserved(caption_of_record(parse_prompt(prompt))) for prompt in prompts)
        assert len({parse_prompt(prompt).tag for prompt in prompts}) == 1


def test_images_are_judged_by_what_their_own_prompt_means():
    rng, family = np.random.default_rng(1), word_family("clover")
    right = render([CONCEPTS["clover"].sample(rng) for _ in range(6)]).images
    wrong = render([CONCEPTS["coal"].sample(rng) for _ in range(6)]).images
    drawn = [Drawn(prompt, wrong, right, np.full(6, 0.2), np.full(6, 0.8)) for prompt in family.prompts]
    found = judged(family, drawn, MicroDescriptionJudge())
    assert [prompt["before"] for prompt in found["prompts"]] == [0.0] * 5
    assert min(prompt["after"] for prompt in found["prompts"]) > 0.8
    assert found["prompts"][1]["vlm_after"] == pytest.approx(0.8)


def row(name: str, category: str, trained, others):
    prompts = [
        {"prompt": "p", "before": before, "after": after, "vlm_before": 0.1, "vlm_after": 0.9}
        for before, after in (trained, *others)
    ]
    return {"name": name, "category": category, "prompts": prompts}


def test_others_count_as_one_figure_a_concept(tmp_path):
    rows = [
        row("clover", "word", (0.0, 1.0), [(0.0, 0.5), (0.5, 0.5)]),
        row("above", "tag", (0.25, 0.5), [(0.5, 0.25), (0.0, 0.0)]),
    ]
    found = changes(rows)
    assert found["all"]["judge_trained"][0] == pytest.approx(0.625)
    assert found["all"]["judge_others"][0] == pytest.approx((0.25 - 0.125) / 2)
    assert found["word"]["judge_others"] == [0.25, None, None]  # of one concept
    assert found["tag"]["vlm_trained"][0] == pytest.approx(0.8)
    assert set(changes(rows[:1])) == {"all", "word"}
    plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
