"""The benchmark of verifiers and reflectors: what counts as preferred, as best, and as true."""

import numpy as np
import pytest

from benchmarks.corrector.verifier_reflector import (
    ASKED,
    TRAINED,
    Arguments,
    HeldOutPair,
    Scorers,
    held_out_pairs,
    measure_pairs,
    measure_ranking,
    measure_reflections,
    preferred,
)
from benchmarks.corrector.wrong_images import WrongImage, say
from inference.prompt_grammar import parse_prompt
from schemas.errors import InputError
from tests.support.micro_shards import write_micro_shards
from tests.support.needed_edits import needed
from trainers.shard_dataset import hold_out
from trainers.shard_index import open_index

BLACK, GREY, WHITE = (np.full((8, 8, 3), value, np.uint8) for value in (0, 128, 255))


class Brightness:
    """Prefers bright images, or dark ones."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def score(self, images, prompts):
        return np.array([self.sign * image.mean() for image in images], np.float32)


class Chosen(Scorers):
    def __init__(self, **scorers):
        self._loaded = scorers

    @property
    def names(self):
        return list(self._loaded)


SCORERS = Chosen(**{TRAINED: Brightness(), ASKED: Brightness(-1.0), "clip": Brightness(), "hps": Brightness(0.0)})


def test_a_tie_counts_half():
    assert preferred(np.array([2.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0])).tolist() == [1.0, 0.5, 0.0]


def test_pairs_are_counted_by_subset_and_the_lead_is_paired():
    pairs = [
        HeldOutPair(WHITE, BLACK, "a", "rule"),
        HeldOutPair(WHITE, GREY, "b", "rule"),
        HeldOutPair(BLACK, GREY, "c", "length"),
    ]
    figures = measure_pairs(pairs, SCORERS)
    assert figures[TRAINED]["all"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert (figures[TRAINED]["rule"]["value"], figures[TRAINED]["length"]["value"]) == (1.0, 0.0)
    assert figures[ASKED]["trained_leads_by"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["hps"]["all"]["value"] == 0.5
    assert figures["ensemble"]["rule"]["value"] == 1.0


def test_the_best_of_n_is_the_highest_score_by_tag():
    prompts = [parse_prompt("a photo of a star"), parse_prompt("a photo of two stars")]
    images = [BLACK, WHITE, GREY, WHITE, GREY, BLACK]
    right = np.array([[False, True, False], [False, False, True]])
    figures = measure_ranking(prompts, images, right, SCORERS)
    assert figures[TRAINED]["right"]["value"] == 0.5
    assert figures[ASKED]["right"]["value"] == 0.5
    assert figures["one at random"]["right"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["a right one"]["right"]["value"] == 1.0


def test_reflections_count_when_they_name_what_the_image_needs():
    text = "a photo of a red star"
    image = WrongImage(parse_prompt(text), 0, BLACK, needed(text, ("blue", "star")), "")
    told = {
        "before": ["Add a ring.", "Remove the star. Make the star red.", "nonsense"],
        "after": [say(image.needed, 40), "Make the star red. Add a ring.", "Make the star red."],
    }
    figures = measure_reflections([image] * 3, told)
    assert figures["before"]["names_a_flaw"]["value"] == 0.0
    assert figures["before"]["anywhere"] == pytest.approx(1 / 3)
    assert figures["before"]["instructions"] == pytest.approx(2 / 3)
    assert figures["after"]["names_a_flaw"]["value"] == 1.0
    assert figures["after"]["nothing_else"] == pytest.approx(2 / 3)
    assert figures["after"]["leads_by"]["value"] == 1.0


def test_pairs_are_those_that_the_trainers_hold_out(tmp_path):
    folder = write_micro_shards(tmp_path / "data", 32)
    arguments = Arguments(str(folder), held_out_share=0.4, seed=2)
    index = open_index(str(folder))
    _, held_out = hold_out(index, 0.4, 2)
    pairs = held_out_pairs(arguments)
    assert len(pairs) == len(held_out) > 0
    assert {p.subset for p in pairs} == {"rule", "editing"}
    with pytest.raises(InputError, match="nothing was held out"):
        held_out_pairs(Arguments(str(folder), held_out_share=0.0))
