from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.grounding.reasons import Failure, FailureKind
from inference.grounding.rule_reflection import write_reflection
from inference.prompt_grammar import parse_prompt
from microworld.scenes.captions import PLACES, RELATIONS
from microworld.scenes.instructions import (
    Edit,
    Operation,
    agrees,
    instruction,
    parse_instruction,
    parse_replacement,
    split_sentences,
)
from microworld.scenes.world import COLORS, SHAPES
from schemas.records import Check

CANONICAL = {
    "Replace the blue star by a red star.": Edit(Operation.RECOLOR, "star", "blue", new_color="red"),
    "Replace one blue star by an orange star.": Edit(
        Operation.RECOLOR, "star", "blue", new_color="orange", one_of=True
    ),
    "Replace the two blue rings by two red rings.": Edit(Operation.RECOLOR, "ring", "blue", 2, new_color="red"),
    "Make the star red.": Edit(Operation.RECOLOR, "star", new_color="red"),
    "Make the crosses red.": Edit(Operation.RECOLOR, "cross", None, None, new_color="red"),
    "Add a red star.": Edit(Operation.ADD, "star", "red"),
    "Add two orange rings.": Edit(Operation.ADD, "ring", "orange", 2),
    "Add a star to the left of the ring.": Edit(Operation.ADD, "star", relation="left of", target="ring"),
    "Add one more ring so that there are three.": Edit(Operation.RECOUNT, "ring", None, 2, new_count=3),
    "Remove one ring so that there are two.": Edit(Operation.RECOUNT, "ring", None, 3, new_count=2),
    "Remove two rings so that there is one.": Edit(Operation.RECOUNT, "ring", None, 3, new_count=1),
    "There should be three rings.": Edit(Operation.RECOUNT, "ring", None, None, new_count=3),
    "Remove the ring.": Edit(Operation.REMOVE, "ring"),
    "Remove all three rings.": Edit(Operation.REMOVE, "ring", None, 3),
    "Move the star to the left of the ring.": Edit(Operation.MOVE, "star", relation="left of", target="ring"),
    "Move the red star above the blue ring.": Edit(
        Operation.MOVE, "star", "red", relation="above", target="ring", target_color="blue"
    ),
    "Put the circle in the upper left.": Edit(Operation.MOVE, "circle", place="upper left"),
    "Replace the circle by a square.": Edit(Operation.RESHAPE, "circle", new_shape="square"),
    "Replace the red circle by a red square.": Edit(Operation.RESHAPE, "circle", "red", new_shape="square"),
}


@pytest.mark.parametrize("text", CANONICAL)
def test_canonical_wordings_both_ways(text):
    assert instruction(CANONICAL[text]) == text
    assert parse_instruction(text) == CANONICAL[text]
    assert parse_instruction(text.lower().rstrip(".")) == CANONICAL[text]


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("Make the blue star red.", CANONICAL["Replace the blue star by a red star."]),
        ("Replace the blue star with a red one.", CANONICAL["Replace the blue star by a red star."]),
        ("Turn the circle into a square.", CANONICAL["Replace the circle by a square."]),
        ("The star should be left of the ring.", CANONICAL["Move the star to the left of the ring."]),
        ("Place the star to the left of the ring.", CANONICAL["Move the star to the left of the ring."]),
        ("There should be a red star.", CANONICAL["Add a red star."]),
        ("The circle should be in the upper left.", CANONICAL["Put the circle in the upper left."]),
        ("Move the stars above the rings.", Edit(Operation.MOVE, "star", None, None, relation="above", target="ring")),
    ],
)
def test_paraphrases_mean_the_same(text, edit):
    assert parse_instruction(text) == edit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The image is fine.",
        "Add a red toothbrush.",
        "Add a star please.",
        "Replace the blue star by a red circle.",
        "Replace the red star by a red star.",
        "Add one rings.",
        "Replace the two blue rings by three red rings.",
        "Remove the ring. Add a star.",
        "Move the star beside the ring.",
    ],
)
def test_anything_else_is_no_instruction(text):
    assert parse_instruction(text) is None


SHAPE, COLOR = st.sampled_from(list(SHAPES)), st.sampled_from(list(COLORS))
MAYBE_COLOR, COUNT = st.none() | COLOR, st.integers(1, 4)


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    operation, shape, color = draw(st.sampled_from(Operation)), draw(SHAPE), draw(MAYBE_COLOR)
    relation, target = draw(st.sampled_from(list(RELATIONS))), draw(SHAPE)
    match operation:
        case Operation.ADD:
            edit = Edit(operation, shape, color, draw(COUNT))
            return replace(edit, relation=relation, target=target) if draw(st.booleans()) else edit
        case Operation.REMOVE:
            return Edit(operation, shape, color, draw(st.none() | COUNT))
        case Operation.RECOLOR:
            count = draw(COUNT) if color else draw(st.sampled_from([1, None]))
            new_color = draw(COLOR.filter(lambda c: c != color))
            return Edit(operation, shape, color, count, new_color=new_color, one_of=count == 1 and draw(st.booleans()))
        case Operation.RESHAPE:
            new_shape = draw(SHAPE.filter(lambda s: s != shape))
            return Edit(operation, shape, color, new_shape=new_shape, one_of=draw(st.booleans()))
        case Operation.MOVE:
            if draw(st.booleans()):
                return Edit(operation, shape, color, place=draw(st.sampled_from(list(PLACES))))
            return Edit(operation, shape, color, relation=relation, target=target, target_color=draw(MAYBE_COLOR))
        case _:
            new_count = draw(COUNT)
            count = draw(st.integers(1, 6).filter(lambda n: n != new_count))
            return Edit(operation, shape, color, count, new_count=new_count)


@settings(max_examples=300, deadline=None)
@given(edits(), st.integers(0, 2**32))
def test_every_instruction_reads_back(edit, seed):
    assert parse_instruction(instruction(edit)) == edit
    text = instruction(edit, np.random.default_rng(seed))
    read = parse_instruction(text)
    assert read is not None, text
    assert agrees(read, edit), text
    assert text[0].isupper()
    assert text.endswith(".")


def test_agreement_is_about_what_is_said():
    true = CANONICAL["Replace the blue star by a red star."]
    assert agrees(CANONICAL["Make the star red."], true)
    assert not agrees(Edit(Operation.RECOLOR, "star", new_color="green"), true)
    assert not agrees(Edit(Operation.RECOLOR, "ring", new_color="red"), true)
    assert not agrees(CANONICAL["Add a red star."], true)
    assert agrees(CANONICAL["There should be three rings."], CANONICAL["Add one more ring so that there are three."])
    assert not agrees(CANONICAL["There should be three rings."], CANONICAL["Remove one ring so that there are two."])


def _failures(prompt):
    """Every kind of failure that a check can find for a prompt."""
    for clause in prompt.include:
        name, count, color = clause.class_name, clause.count, clause.color
        yield from (Failure(FailureKind.MISSING, name, count, found) for found in range(count))
        if color:
            for others in product(["blue", "white", "unknown"], repeat=count):
                yield Failure(FailureKind.COLOR, name, count, color=color, found_colors=others)
        if clause.relation:
            target = prompt.include[clause.relative_to].class_name
            yield Failure(FailureKind.RELATION, name, relation=clause.relation, target=target)
            yield Failure(FailureKind.NO_TARGET, name, relation=clause.relation, target=target)
    for clause in prompt.exclude:
        for found in range(clause.count, clause.count + 3):
            yield Failure(FailureKind.TOO_MANY, clause.class_name, clause.count, num_found=found)


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a star",
        "a photo of three crosses",
        "a photo of a red ring",
        "a photo of three red rings",
        "a photo of a star left of a ring",
        "a photo of two red stars below an orange ring",
        "a photo of a red circle and an orange star",
    ],
)
def test_every_rule_reflection_is_read(text):
    prompt = parse_prompt(text)
    right = Check(True, 1.0)
    for failure in _failures(prompt):
        reflection = write_reflection(prompt, right, Check(False, 0.0, (failure.sentence(),)))
        assert reflection
        for sentence in split_sentences(reflection):
            assert parse_instruction(sentence) is not None, sentence


def test_a_replacement_may_be_of_shape_and_colour():
    both = "Replace one red star by a blue ring."
    edit = parse_replacement(both)
    assert edit == Edit(Operation.RESHAPE, "star", "red", new_shape="ring", new_color="blue", one_of=True)
    assert parse_instruction(both) is None  # no single operation
    recolored = parse_replacement("replace the red star by a blue star")
    assert recolored == Edit(Operation.RESHAPE, "star", "red", new_shape="star", new_color="blue")
    assert parse_replacement("Replace the star by a ring.") == Edit(Operation.RESHAPE, "star", new_shape="ring")
    for other in ("Replace the two red stars by a blue ring.", "Make the star red.", "Replace the fox by a ring.", ""):
        assert parse_replacement(other) is None
