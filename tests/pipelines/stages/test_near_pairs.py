"""Near pairs: an image and what was made of it that differ in one requirement alone."""

from dataclasses import replace

import pytest

from commands.main import main
from pipelines.stages.harvest_pairs import HarvestPairs, HarvestPairsConfig, mended_flaw
from schemas.configuration import output_config
from schemas.records import AtomValue, PromptRow, SearchStep
from tests.support.golden_stages import Searched, searched_row

MENDS = {"color": "Paint the star red.", "relation": "Move the ring to the left.", "question": "Show the fox writing."}
NEAR = HarvestPairsConfig(partner="near", rounds=("a",), annotator="micro/reflector", pairs_per_prompt=9)


def atoms(*values, mends=True):
    kinds = ("color", "relation", "question")
    return tuple(
        AtomValue(kind, kind, value, MENDS[kind] if mends and value < 0.5 else None)
        for kind, value in zip(kinds, values, strict=True)
    )


def step(atoms, score, parent=None, told=None):
    return SearchStep(
        round=0 if parent is None else 1, chain=0, score=score, atoms=atoms, parent=parent, reflection=told
    )


def harvested(steps, config=NEAR):
    trace = searched_row(0, steps)
    stage = HarvestPairs(config, 7)
    stage.search, stage.unit_of = Searched([trace]), {trace.prompt.prompt_id: 0}
    (row,) = stage([PromptRow(trace.prompt)])
    return row


def pairs_of(before, after, told="Paint the star red. Move the ring to the left.", config=NEAR, scores=(-5.0, -3.0)):
    row = harvested([step(before, scores[0]), step(after, scores[1], 0, told)], config)
    return [(pair.bad, pair.good, pair.reflection.text, pair.reflection.annotator) for pair in row.pairs]


def test_the_one_requirement_that_was_mended_is_what_is_said():
    """Though more was told to the corrector, and another requirement fails in both, so that no score is high."""
    said = [(0, 1, "Paint the star red.", "rule")]
    assert pairs_of(atoms(0.1, 0.2, 0.9), atoms(0.9, 0.3, 0.8)) == said
    assert pairs_of(atoms(0.1, 0.9, 0.9), atoms(0.9, 0.9, 0.9)) == said
    # How a question is met, no rule said.
    assert pairs_of(atoms(0.9, 0.9, 0.1), atoms(0.9, 0.9, 0.9)) == [(0, 1, MENDS["question"], "micro/reflector")]


def test_what_was_missing_brings_its_colour_and_place():
    def missing(value, mend, other=None):
        said = (("object", mend), ("color", other), ("relation", None))
        return tuple(AtomValue(kind, kind, value, text) for kind, text in said)

    there = missing(0.9, None)
    assert pairs_of(missing(0.1, "Add a red star."), there) == [(0, 1, "Add a red star.", "rule")]
    assert pairs_of(missing(0.1, "Add a star.", "Paint it red."), there) == []  # two things
    assert pairs_of(missing(0.1, None), there, "Make it red.") == []  # nobody knows that it is one thing


def test_without_a_mend_one_sentence_is_what_the_corrector_was_told():
    before, after = atoms(0.1, 0.2, 0.9, mends=False), atoms(0.9, 0.2, 0.9, mends=False)
    assert pairs_of(before, after, "Make it red.") == [(0, 1, "Make it red.", "micro/reflector")]
    assert pairs_of(before, after, "Make it red. Move the ring.") == []
    assert pairs_of(before, after, "The image is right.") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (atoms(0.1, 0.2, 0.9), atoms(0.9, 0.8, 0.9)),  # two mended
        (atoms(0.1, 0.9, 0.9), atoms(0.9, 0.2, 0.9)),  # one mended, one spoilt
        (atoms(0.9, 0.9, 0.9), atoms(0.1, 0.9, 0.9)),  # one spoilt
        (atoms(0.1, 0.2, 0.9), atoms(0.2, 0.1, 0.9)),  # none changed sides
        (atoms(0.4, 0.9, 0.9), atoms(0.6, 0.9, 0.9)),  # hardly changed
        (atoms(0.1, 0.9, 0.9), atoms(0.9, 0.9, 0.9)[:2]),  # of another prompt's requirements
        ((), ()),
    ],
)
def test_what_is_not_near_is_no_pair(before, after):
    assert pairs_of(before, after) == []


def test_a_pair_is_not_near_where_the_verifier_likes_the_good_image_less():
    before, after = atoms(0.1, 0.9, 0.9), atoms(0.9, 0.9, 0.9)
    assert pairs_of(before, after, scores=(1.0, 0.5)) == []
    assert pairs_of(before, after, config=replace(NEAR, min_atom_gain=0.9)) == []
    assert mended_flaw(before, after) == before[0]


def test_drawn_afresh_is_no_pair():
    row = harvested([step(atoms(0.1, 0.9, 0.9), -3.0), step(atoms(0.9, 0.9, 0.9), 3.0)])
    assert row.rejection is not None
    assert row.rejection.reason == "no_pair_left"


def test_harvests_of_before_keep_their_keys():
    assert "min_atom_gain" not in output_config(HarvestPairsConfig(), {})
    assert output_config(replace(NEAR, min_atom_gain=0.7), {})["min_atom_gain"] == 0.7


def test_a_search_that_nobody_checked_by_atoms_is_refused(tmp_path, capsys):
    from commands.arguments import parse_with_preset
    from commands.search import SearchArgs, default_arguments
    from pipelines.new_run import new_run
    from pipelines.search_job import search_prompts

    said = ["--prompts", "composed", "--num-prompts", "4", "--search.strategy", "reflection"]
    said += ["--tools.verifier.kinds", "rules", "--tools.critic.kind", "vlm", "--run", str(tmp_path / "search")]
    job = parse_with_preset(SearchArgs, said, "search", default_arguments).job
    rows = list(search_prompts(job))
    new_run(str(tmp_path / "search"), "micro", "search", job, rows, lambda: ({"rule": len(rows)}, {}))
    code = main(
        ["harvest", "--run", str(tmp_path / "search"), "--out", str(tmp_path / "o"), "--harvest.partner", "near"]
    )
    assert code == 2
    assert "kinds atoms" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
