"""Requirements on what a detector found: which hold, by GenEval's rules, and what mends those that do not."""

from dataclasses import replace

import pytest

from inference.grounding.check import check_objects
from inference.prompt_grammar import parse_prompt
from inference.requirements.assign import assign
from inference.requirements.atoms import HOLDS, atoms_of, failing, log_odds_of_all
from inference.requirements.typed_atoms import typed_atoms
from microworld.scenes.instructions import parse_instruction, split_sentences
from schemas.errors import InputError
from schemas.records import DetectedObject, ObjectClause, PromptRecord, Question


def found(name, x=16.0, y=16.0, color="red", score=0.9, size=8.0):
    half = size / 2
    return DetectedObject(name, score, (x - half, y - half, x + half, y + half), color)


def mends(text, *objects, others=()):
    atoms = typed_atoms(parse_prompt(text), objects, others)
    return [atom.mend for atom in failing(atoms) if atom.mend]


RED_STAR_LEFT_OF_RING = "a photo of a red star left of a ring"
SCENES = [
    ("a photo of a star", [found("star")], True),
    ("a photo of a star", [], False),
    ("a photo of two stars", [found("star"), found("star", 4)], True),
    ("a photo of two stars", [found("star")], False),
    ("a photo of two stars", [found("star", x) for x in (4, 14, 26)], False),
    ("a photo of a blue star", [found("star")], False),
    ("a photo of a red star and a blue ring", [found("star", 8), found("ring", 24, color="blue")], True),
    ("a photo of a red star and a blue ring", [found("star", 8), found("ring", 24)], False),
    (RED_STAR_LEFT_OF_RING, [found("star", 6), found("ring", 26)], True),
    (RED_STAR_LEFT_OF_RING, [found("star", 26), found("ring", 6)], False),
    (RED_STAR_LEFT_OF_RING, [found("star", 6)], False),
]


@pytest.mark.parametrize(("text", "objects", "correct"), SCENES)
def test_all_atoms_hold_where_the_check_calls_the_image_right(text, objects, correct):
    record = parse_prompt(text)
    atoms = typed_atoms(record, objects)
    assert [atom.text for atom in atoms] == [atom.text for atom in atoms_of(record)]
    assert check_objects(record, objects).correct == correct
    assert (not failing(atoms)) == correct
    assert all(0 <= atom.value <= 1 for atom in atoms)


def test_a_surer_detection_is_worth_more():
    scores = [
        log_odds_of_all(typed_atoms(parse_prompt("a photo of a star"), [found("star", score=score)]))
        for score in (0.3, 0.6, 0.9)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize(
    ("text", "objects", "told"),
    [
        ("a photo of a star", [], ["Add a star."]),
        ("a photo of a blue star", [found("star")], ["Replace the red star by a blue star."]),
        ("a photo of a blue star", [found("star", color="unknown")], ["Make the star blue."]),
        ("a photo of a red star and a blue ring", [found("star")], ["Add a blue ring."]),
        ("a photo of three stars", [found("star")], ["Add two more stars so that there are three."]),
        (
            "a photo of two stars",
            [found("star", x) for x in (4, 14, 26)],
            ["Remove one star so that there are two."],
        ),
        (
            "a photo of two blue stars",
            [found("star", 6), found("star", 26)],
            ["Replace the two red stars by two blue stars."],
        ),
        (RED_STAR_LEFT_OF_RING, [found("star", 26), found("ring", 6)], ["Move the red star to the left of the ring."]),
        (RED_STAR_LEFT_OF_RING, [found("ring")], ["Add a red star to the left of the ring."]),
    ],
)
def test_one_sentence_for_one_flaw_in_the_words_that_correctors_learn(text, objects, told):
    assert mends(text, *objects) == told
    assert all(parse_instruction(sentence) for mend in told for sentence in split_sentences(mend))


def test_what_is_surely_there_instead_is_named():
    text = "a photo of a red star"
    assert mends(text, others=[found("square", color="blue")]) == ["Replace the blue square by a red star."]
    assert mends(text, others=[found("square", color="blue", score=0.5)]) == ["Add a red star."]
    two = [found("square", 6, color="blue"), found("square", 26, color="blue")]
    assert mends(text, others=two) == ["Replace one blue square by a red star."]


def test_one_of_the_asked_class_too_many_becomes_what_is_missing():
    told = mends("a photo of a star and a ring", found("star", 6, color="blue"), found("star", 26))
    assert told in (["Replace the red star by a ring."], ["Replace the blue star by a ring."])


TWO_STARS = PromptRecord(
    "p", "a red star and a blue star", "rule", include=(ObjectClause("star", 1, "red"), ObjectClause("star", 1, "blue"))
)


def test_two_clauses_of_one_class_share_its_objects_out():
    right = [found("star", 6, color="blue"), found("star", 26, score=0.6)]
    assert not failing(typed_atoms(TWO_STARS, right))
    both_red = typed_atoms(TWO_STARS, [found("star", 6), found("star", 26)])
    assert [(atom.text, atom.mend) for atom in failing(both_red)] == [
        ("the star is blue", "Replace one red star by a blue star.")
    ]
    one = typed_atoms(TWO_STARS, [found("star")])
    assert [atom.mend for atom in failing(one) if atom.mend] == ["Add a blue star."]


def test_clauses_of_one_class_are_told_apart_by_place_too():
    red, blue = TWO_STARS.include
    placed = replace(TWO_STARS, include=(blue, replace(red, relation="left of", relative_to=0)))
    objects = [found("star", 6), found("star", 26, color="blue")]
    assert not failing(typed_atoms(placed, objects))
    same_color = replace(placed, include=tuple(replace(clause, color=None) for clause in placed.include))
    assert not failing(typed_atoms(same_color, [found("star", 26), found("star", 6, score=0.95)]))


def test_the_object_that_stands_right_is_taken_to_replace_another():
    record = parse_prompt("a photo of a star left of a ring")
    ring, left, right = found("ring"), found("square", 4, color="blue"), found("square", 28, color="green")
    ordered = assign(record, [ring, right, left])
    assert ordered == [ring, left]


def test_an_unsure_object_gets_a_mend_and_holds():
    (atom,) = typed_atoms(parse_prompt("a photo of a star"), [found("star", score=0.4)])
    assert atom.value >= HOLDS
    assert atom.mend == "Add a star."
    (atom,) = typed_atoms(parse_prompt("a photo of a star"), [found("star", score=0.9)])
    assert atom.mend is None


def test_what_must_not_be_there():
    record = PromptRecord(
        "p", "a star without rings", "rule", include=(ObjectClause("star"),), exclude=(ObjectClause("ring"),)
    )
    atoms = typed_atoms(record, [found("star", 6), found("ring", 26)])
    assert [(atom.text, atom.mend) for atom in failing(atoms)] == [("no ring", "Remove the ring.")]


def test_fewer_than_so_many():
    record = PromptRecord("p", "few rings", "rule", include=(ObjectClause("ring"),), exclude=(ObjectClause("ring", 3),))
    rings = [found("ring", x) for x in (4, 14, 26)]
    assert not failing(typed_atoms(record, rings[:2]))
    assert [(atom.text, atom.mend) for atom in failing(typed_atoms(record, rings))] == [
        ("fewer than three rings", "Remove one ring so that there are two.")
    ]


def test_questions_are_left_to_others_and_bad_clauses_refused():
    record = PromptRecord("p", "a star that sings", "rule", questions=(Question("Does it sing?"),))
    assert typed_atoms(record, []) == ()
    bad = PromptRecord("p", "a star", "rule", include=(ObjectClause("star", 0),))
    with pytest.raises(InputError, match="at least 1"):
        typed_atoms(bad, [])


def test_a_crowd_is_shared_out():
    clauses = tuple(
        ObjectClause(name, 1, None, "left of" if i else None, 0 if i else None)
        for i, name in enumerate(("ring", "star", "heart", "cross", "square"))
    )
    record = PromptRecord("p", "many", "rule", include=clauses)
    objects = [found(name, 3.0 * i, 5.0) for i, name in enumerate(("star", "ring", "heart", "cross", "square") * 4)]
    assert len(typed_atoms(record, objects, others=objects)) == 9


THREE = PromptRecord(
    "three",
    "a blue square, a purple triangle below it, a white heart to its left",
    "rule",
    include=(
        ObjectClause("square", 1, "blue"),
        ObjectClause("triangle", 1, "purple", "below", 0),
        ObjectClause("heart", 1, "white", "left of", 0),
    ),
)


def told_of_three(*objects):
    return {atom.mend for atom in failing(typed_atoms(THREE, objects)) if atom.mend}


def test_where_two_places_are_wrong_both_moves_are_told_though_one_new_object_would_do_too():
    there = [found("triangle", 8, 8, "purple"), found("square", 24, 8, "purple"), found("heart", 24, 24, "white")]
    assert told_of_three(*there) == {
        "Replace the purple square by a blue square.",
        "Move the purple triangle below the blue square.",
        "Move the white heart to the left of the blue square.",
    }


def test_objects_that_are_to_change_their_shapes_are_named_where_the_number_of_each_is_right():
    swapped = [found("triangle", 24, 8, "blue"), found("square", 24, 24, "purple"), found("heart", 8, 8, "white")]
    assert told_of_three(*swapped) == {
        "Replace the blue triangle by a blue square.",
        "Replace the purple square by a purple triangle.",
    }


def test_what_becomes_something_else_is_not_to_be_removed_too():
    asked = (ObjectClause("ring", 2, "red"), ObjectClause("square", 1, "green"))
    record = PromptRecord("rings", "two red rings, a green square", "rule", None, asked, (ObjectClause("ring", 3),))
    rings = [found("ring", 8, 8), found("ring", 24, 8), found("ring", 24, 24, "green")]
    told = {atom.mend for atom in failing(typed_atoms(record, rings)) if atom.mend}
    assert told == {"Replace the green ring by a green square."}
    more = [*rings, found("ring", 8, 24)]
    told = {atom.mend for atom in failing(typed_atoms(record, more)) if atom.mend}
    assert told == {"Replace the green ring by a green square.", "Remove one ring so that there are two."}
