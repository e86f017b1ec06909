"""The fair commonsense set: its conditions hold in what was measured, and its words are known."""

import json
from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.dual_process.known_pairs import KINDS, candidates, choose, known_pairs
from benchmarks.dual_process.micro_commonsense import MicroDescriptionJudge, without_place
from benchmarks.results_file import RESULTS
from inference.dual.statements import described_questions
from inference.model_store import resolve_model
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import PLACES, caption_of_record, is_reserved, sample_scene
from microworld.scenes.world import FRAME_PX, Background, Scene, SceneObject, render
from recipes import micro

SPLITS = ("dev", "test")
BOTH = [pair for split in SPLITS for pair in known_pairs(split)]
ITEMS = [item for pair in BOTH for item in zip(pair.prompts, pair.descriptions, strict=True)]


@pytest.fixture(scope="module")
def shares():
    """What was measured of each candidate: shares of its prompt's images, and of its description's."""
    figures = json.loads((RESULTS / "known_pairs.json").read_text())["figures"]
    assert figures["images"] == 64
    rows = figures["candidates"]
    return {one: (row["base"], row["said"]) for one, row in zip(candidates(), rows, strict=True) if is_of(one, row)}


def is_of(candidate, row):
    return (candidate.prompt, candidate.description) == (row["prompt"], row["description"])


def test_the_files_are_what_is_chosen_of_the_measurements(shares):
    assert list(shares) == candidates()
    chosen = choose({one: base for one, (base, _) in shares.items()}, lambda one: shares[one][1])
    assert chosen == {split: known_pairs(split) for split in SPLITS}


def test_every_prompt_leaves_something_to_learn_and_every_description_can_be_drawn(shares):
    measured = {(one.prompt, one.description): both for one, both in shares.items()}
    for item in ITEMS:
        base, said = measured[item]
        assert 0.05 <= base <= 0.35
        assert said >= 0.40


def test_the_splits_have_all_kinds_and_nothing_in_common():
    for split in SPLITS:
        pairs = known_pairs(split)
        counts = Counter(pair.category for pair in pairs)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert {pair.category for pair in pairs[: len(KINDS)]} == set(counts) == set(KINDS)
    assert (len(known_pairs("test")), len(known_pairs("dev"))) == (40, 12)
    assert len(set(ITEMS)) == 2 * len(BOTH) == 104


def test_the_generator_knows_every_word_and_reads_the_two_prompts_apart():
    folder = resolve_model("micro/flux")
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        for pair in BOTH:
            first, second = (tokenizer(prompt).input_ids for prompt in pair.prompts)
            assert first != second
            said = [tokenizer(text).input_ids for text in pair.descriptions]
            assert all(tokenizer.unk_token_id not in ids for ids in (first, second, *said))
        assert tokenizer.unk_token_id in tokenizer("a photo of a sunrise").input_ids


def test_what_is_implied_is_in_no_prompt_and_nothing_is_reserved_or_held_down():
    kept = micro.dual_process().keep_prompts
    for prompt, description in ITEMS:
        assert set(description.split()) - set(prompt.split())
        words, place = without_place(description)
        assert place is not None or not is_reserved(caption_of_record(parse_prompt(words)))
        assert prompt not in kept


def test_the_questions_ask_for_what_is_implied():
    for prompt, description in ITEMS:
        asked = [one.question for one in described_questions(prompt, description)]
        assert len(asked) > 2
        assert asked[-1] == f"Does the image show {prompt.removeprefix('a photo of ')}?"
        implied = set(description.replace(" a ", " the ").split()) - set(prompt.split()) - {"the"}
        assert any(implied <= set(question.rstrip("?").split()) for question in asked)


def test_the_judge_reads_every_description():
    rng = np.random.default_rng(5)
    judge = MicroDescriptionJudge()
    images = list(render([scene_of(description, rng) for _, description in ITEMS]).images)
    own = [description for _, description in ITEMS]
    other = [description for pair in BOTH for description in pair.descriptions[::-1]]
    assert judge.fits(images, own, other).mean() > 0.9
    assert judge.fits(images, other, own).mean() == 0


def scene_of(description: str, rng: np.random.Generator) -> Scene:
    words, place = without_place(description)
    caption = caption_of_record(parse_prompt(words))
    if place is None:
        return sample_scene(rng, caption, 0.0)
    row, column = divmod(list(PLACES).index(place), 3)
    cx, cy = ((2 * cell + 1) * FRAME_PX / 6 for cell in (column, row))
    (clause,) = caption.clauses
    return Scene(Background(), (SceneObject(clause.shape, clause.color or "red", cx, cy, 9.0),))


def test_too_few_fair_candidates_are_an_error():
    with pytest.raises(ValueError, match="0 pairs of attribute"):
        choose(dict.fromkeys(candidates(), 0.2), lambda _: 0.1)
