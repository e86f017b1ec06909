"""Our scoring against GenEval's rules said a second time, as plainly as possible, on random detections with ties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.judges.geneval_scoring import ScoreThresholds, judge_objects
from schemas.records import DetectedObject, ObjectClause, PromptRecord

NAMES, HUES = ("dog", "cup"), ("red", "blue")
RELATIONS = ("left of", "right of", "above", "below")


def verdict(prompt, detections, threshold):
    """The rules: strictly above the threshold; at most 16 of a class by falling score, of equal ones the later first
    (the published `np.argsort(scores)[::-1]`, class by class); every include clause holds (number, then colour of the
    most confident, then place against each object of the target, which must hold itself); no exclude clause is
    reached."""
    of_class = {}
    for name in NAMES:
        its = [d for d in detections if d.class_name == name]
        ordering = np.argsort([d.score for d in its], kind="stable")[::-1]
        of_class[name] = [its[i] for i in ordering if its[i].score > threshold][:16]
    correct, groups = True, []
    for clause in prompt.include:
        group = of_class.get(clause.class_name, [])[: clause.count]
        holds = len(group) == clause.count and (clause.color is None or all(d.color == clause.color for d in group))
        if holds and clause.relation is not None:
            target = groups[clause.relative_to]
            holds = target is not None and all(
                clause.relation in relations(a.box, b.box) for a in group for b in target
            )
        groups.append(group if holds else None)
        correct = correct and holds
    return correct and all(len(of_class.get(c.class_name, [])) < c.count for c in prompt.exclude)


def relations(a, b):
    dx = (a[0] + a[2]) / 2 - (b[0] + b[2]) / 2
    dy = (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2
    reach_x = 0.1 * (a[2] - a[0] + b[2] - b[0])
    reach_y = 0.1 * (a[3] - a[1] + b[3] - b[1])
    x, y = math.copysign(max(abs(dx) - reach_x, 0), dx), math.copysign(max(abs(dy) - reach_y, 0), dy)
    if abs(x) < 1e-3 and abs(y) < 1e-3:
        return set()
    norm = math.hypot(dx, dy)
    found = {"left of": x / norm < -0.5, "right of": x / norm > 0.5, "above": y / norm < -0.5, "below": y / norm > 0.5}
    return {name for name, holds in found.items() if holds}


SCORES = (0.2, 0.3, 0.31, 0.9, 0.91)  # few, so that many tie; and figures on the thresholds
KINDS = tuple((name, score, hue) for name in NAMES for score in SCORES for hue in (*HUES, None))
ROOM, SIZES = range(41), range(4, 25)


@st.composite
def detections(draw):
    """Two draws: one for each field took three quarters of the test's time."""
    name, score, hue = draw(st.sampled_from(KINDS))
    rest, left = divmod(draw(st.integers(0, len(ROOM) ** 2 * len(SIZES) ** 2 - 1)), len(ROOM))
    rest, upper = divmod(rest, len(ROOM))
    width, height = (SIZES[i] for i in divmod(rest, len(SIZES)))
    box = (float(left), float(upper), float(left + width), float(upper + height))
    return DetectedObject(name, score, box, hue)


@st.composite
def prompts(draw):
    hue = st.sampled_from((*HUES, None))
    first = ObjectClause(NAMES[0], draw(st.integers(1, 3)), draw(hue))
    include = [first]
    if draw(st.booleans()):
        relation = draw(st.sampled_from((*RELATIONS, None)))
        include.append(ObjectClause(NAMES[1], draw(st.integers(1, 2)), draw(hue), relation, 0 if relation else None))
    exclude = [ObjectClause(NAMES[0], first.count + 1)] if draw(st.booleans()) else []
    tag = draw(st.sampled_from(("counting", "colors", "position")))
    return PromptRecord("p", "text", "rule", tag, tuple(include), tuple(exclude))


@st.composite
def tied_detections(draw):
    """Of one class and one score in different colours: only the order says which of them count."""
    one = draw(detections())
    return [
        DetectedObject(NAMES[0], 0.95, one.box, draw(st.sampled_from(HUES))) for _ in range(draw(st.integers(2, 4)))
    ]


@settings(max_examples=1500, deadline=None)
@given(prompts(), st.lists(detections(), max_size=24) | tied_detections())
def test_every_verdict_is_the_rules_verdict(prompt, found):
    limits = ScoreThresholds()
    threshold = 0.9 if prompt.tag == "counting" else 0.3
    check = judge_objects(prompt, found, limits)
    assert check.correct == verdict(prompt, found, threshold)
    assert check.correct == (not check.reasons)


@given(prompts(), st.lists(detections(), max_size=12))
def test_objects_of_no_clause_change_nothing(prompt, found):
    stranger = DetectedObject("bus", 1.0, (0.0, 0.0, 64.0, 64.0), "red")
    assert (
        judge_objects(prompt, [*found, stranger], ScoreThresholds()).reasons
        == judge_objects(prompt, found, ScoreThresholds()).reasons
    )


def at(name, score, x, color=None):
    return DetectedObject(name, score, (float(x), 10.0, x + 10.0, 20.0), color)


@pytest.mark.parametrize(
    ("include", "exclude", "found", "reasons"),
    [
        # the two most confident count: the third one's colour is no matter
        (
            [ObjectClause("dog", 2, "red")],
            [],
            [("dog", 0.9, 0, "red"), ("dog", 0.8, 20, "red"), ("dog", 0.7, 40, "blue")],
            (),
        ),
        # of equal scores the one that was detected last counts
        ([ObjectClause("dog", 1, "red")], [], [("dog", 0.9, 0, "blue"), ("dog", 0.9, 20, "red")], ()),
        (
            [ObjectClause("dog", 1, "red")],
            [],
            [("dog", 0.9, 0, "red"), ("dog", 0.9, 20, "blue")],
            ("expected red dog>=1, found 0 red; and 1 blue",),
        ),
        # also of three, and whatever stands between them
        (
            [ObjectClause("dog", 2, "red")],
            [],
            [("dog", 0.9, 0, "blue"), ("cup", 0.95, 9, None), ("dog", 0.9, 20, "red"), ("dog", 0.9, 40, "red")],
            (),
        ),
        # exactly at the threshold is below it
        ([ObjectClause("dog")], [], [("dog", 0.3, 0, None)], ("expected dog>=1, found 0",)),
        # offset 14, sizes 10 and 10: shrunk by 2, 12 / 14 = .86 > .5
        (
            [ObjectClause("dog"), ObjectClause("cup", 1, None, "right of", 0)],
            [],
            [("dog", 1, 0, None), ("cup", 1, 14, None)],
            (),
        ),
        # offset 2: shrunk to nothing, so it stands nowhere
        (
            [ObjectClause("dog"), ObjectClause("cup", 1, None, "right of", 0)],
            [],
            [("dog", 1, 0, None), ("cup", 1, 2, None)],
            ("expected cup right of dog, found no clear relation to dog",),
        ),
        # both an include and an exclude clause fail: a line each
        (
            [ObjectClause("cup", 1)],
            [ObjectClause("dog", 2)],
            [("dog", 1, 0, None), ("dog", 1, 30, None)],
            ("expected cup>=1, found 0", "expected dog<2, found 2"),
        ),
    ],
)  # fmt: skip
def test_verdicts_worked_out_by_hand(include, exclude, found, reasons):
    prompt = PromptRecord("p", "text", "rule", "colors", tuple(include), tuple(exclude))
    check = judge_objects(prompt, [at(*one) for one in found], ScoreThresholds())
    assert check.reasons == reasons
    assert check.correct == (not reasons)
