"""What a teacher is shown beforehand is nothing that the fair set measures."""

import numpy as np

from benchmarks.dual_process.fooling_images import unsealed
from benchmarks.dual_process.known_pairs import known_pairs
from microworld.training.fooled import KINDS, sample_concept


def implied():
    pairs = [*known_pairs("dev"), *known_pairs("test")]
    return {told.removeprefix("a photo of ") for pair in pairs for told in pair.descriptions}


def asks_for_one(concept):
    return any(words in concept.questions[-1].question for words in implied())


def test_no_concept_asks_for_what_a_known_pair_implies():
    for kind in KINDS:
        drawn = [np.random.default_rng([0, number]) for number in range(60)]
        assert not any(asks_for_one(unsealed(rng, kind)) for rng in drawn)
    for kind in ("colour", "place"):
        assert any(asks_for_one(sample_concept(np.random.default_rng([0, number]), kind)) for number in range(60))
