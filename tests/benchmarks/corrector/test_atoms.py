"""The benchmark of requirements one by one: who leads whom, and what a writer's truth is."""

import numpy as np

from benchmarks.corrector.atoms import ATOMS, REFLECTOR, Said, measure_ranking, measure_written
from benchmarks.corrector.wrong_images import WrongImage
from inference.prompt_grammar import parse_prompt
from schemas.records import Cost
from tests.support.needed_edits import needed


def test_a_mean_chooses_by_both_and_leads_are_over_the_first():
    prompts = [parse_prompt("a photo of a star", "a"), parse_prompt("a photo of a ring", "b")]
    right = np.array([[True, False], [False, True]])
    good, bad = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    rows = measure_ranking(prompts, right, {"trained": bad, "rules": bad, "vlm": good, "atoms": 3 * good})
    assert rows["trained rules"]["right"]["value"] == 0
    assert rows["trained atoms"]["right"]["value"] == rows["atoms"]["leads_by"]["value"] == 1
    assert rows["one at random"]["right"]["value"] == 0.5


def test_truth_is_the_first_sentences_and_tokens_are_an_images():
    wrong = [
        WrongImage(parse_prompt("a photo of a star"), i, np.zeros((2, 2, 3), np.uint8), needed("a photo of a star"), "")
        for i in range(2)
    ]
    said = {
        REFLECTOR: Said(["Add a ring. Add a star."] * 2, Cost(vlm_prompt_tokens=10, vlm_completion_tokens=4)),
        ATOMS: Said(["Add a star.", ""]),
    }
    rows = measure_written(wrong, said)
    assert rows[REFLECTOR]["names_a_flaw"]["value"] == 0
    assert rows[ATOMS]["names_a_flaw"]["value"] == rows[ATOMS]["leads_reflector_by"]["value"] == 0.5
    assert rows[REFLECTOR]["vlm_tokens_an_image"] == 7
    assert rows[ATOMS]["says_something"] == 0.5
