"""What two checked images differ in beside what the reflection says."""

import pytest

from inference.grounding.check import check_objects
from inference.grounding.differences import unexplained_differences
from schemas.image_size import ImageSize
from schemas.records import DetectedObject, ObjectClause, PromptRecord

SIZE = ImageSize(100, 100)
LEFT, RIGHT, TOP = (0, 40, 20, 60), (80, 40, 100, 60), (40, 0, 60, 20)
NEARLY_LEFT = (10, 45, 30, 65)


def prompt(*include, exclude=()):
    return PromptRecord("p", "of a test", "rule", None, include, exclude)


def differences(asked, bad, good, max_shift=0.2, sizes=(SIZE, SIZE)):
    """bad, good: objects as "red star" and where."""
    checks = []
    for shown in (good, bad):
        named = [(what.rpartition(" "), box) for what, box in shown]
        objects = [DetectedObject(name, 0.9, tuple(map(float, box)), color or None) for (color, _, name), box in named]
        checks.append(check_objects(asked, objects))
    good_check, bad_check = checks
    assert good_check.correct
    assert not bad_check.correct
    return unexplained_differences(good_check, bad_check, sizes, max_shift)


TWO = prompt(ObjectClause("star", color="red"), ObjectClause("ring"))
BESIDE = prompt(ObjectClause("star", relation="left of", relative_to=1), ObjectClause("ring"))
TWO_STARS = prompt(ObjectClause("star", 2, "red"))
ONE_RING = prompt(ObjectClause("ring"), exclude=(ObjectClause("ring", 2),))


@pytest.mark.parametrize(
    ("asked", "bad", "good"),
    [
        (TWO, [("red star", LEFT)], [("red star", NEARLY_LEFT), ("blue ring", TOP)]),  # added
        (TWO, [("blue star", LEFT), ("ring", TOP)], [("red star", LEFT), ("ring", TOP)]),  # recoloured
        (BESIDE, [("star", RIGHT), ("ring", TOP)], [("star", LEFT), ("ring", TOP)]),  # moved
        (BESIDE, [("star", LEFT)], [("star", LEFT), ("ring", RIGHT)]),  # added, so that the other's place is known
        (TWO_STARS, [("red star", LEFT)], [("red star", RIGHT), ("red star", LEFT)]),  # one more
        (ONE_RING, [("ring", LEFT), ("ring", TOP)], [("ring", TOP)]),  # removed
    ],
)
def test_what_the_reflection_says_is_explained(asked, bad, good):
    assert differences(asked, bad, good) == []


@pytest.mark.parametrize(
    ("asked", "bad", "good", "found"),
    [
        (TWO, [("red star", LEFT)], [("red star", RIGHT), ("ring", TOP)], "star: lies elsewhere"),
        (
            TWO,
            [("red star", LEFT)],
            [("red star", LEFT), ("red star", RIGHT), ("ring", TOP)],
            "star: 1 in the bad image, 2 in the good one",
        ),
        (
            TWO,
            [("blue star", LEFT), ("blue ring", TOP)],
            [("red star", LEFT), ("green ring", TOP)],
            "ring: blue in one image, not in the other",
        ),
        (TWO, [("blue star", LEFT), ("ring", TOP)], [("red star", RIGHT), ("ring", TOP)], "star: lies elsewhere"),
        (
            BESIDE,
            [("blue star", RIGHT), ("ring", TOP)],
            [("red star", LEFT), ("ring", TOP)],
            "star: blue in one image, not in the other",
        ),
        (BESIDE, [("star", RIGHT), ("ring", LEFT)], [("star", LEFT), ("ring", RIGHT)], "ring: lies elsewhere"),
        # One more star is asked for, and the one that is there is of another colour, too.
        (
            TWO_STARS,
            [("blue star", LEFT)],
            [("red star", LEFT), ("red star", RIGHT)],
            "star: blue in one image, not in the other",
        ),
        (ONE_RING, [("ring", LEFT), ("ring", TOP)], [("ring", RIGHT)], "ring: lies elsewhere"),
    ],
)
def test_what_it_does_not_say_is_named(asked, bad, good, found):
    assert differences(asked, bad, good) == [found]


def test_two_that_change_places_are_elsewhere_unless_they_are_alike():
    asked = prompt(ObjectClause("star", 2), ObjectClause("ring"))
    swapped = [("red star", RIGHT), ("blue star", LEFT), ("ring", TOP)]
    assert differences(asked, [("red star", LEFT), ("blue star", RIGHT)], swapped) == ["star: lies elsewhere"]
    alike = [("red star", RIGHT), ("red star", LEFT), ("ring", TOP)]
    assert differences(asked, [("red star", LEFT), ("red star", RIGHT)], alike) == []


def test_how_far_is_a_share_of_each_image():
    bad, good = [("red star", LEFT)], [("red star", NEARLY_LEFT), ("ring", TOP)]
    assert differences(TWO, bad, good, max_shift=0.05) == ["star: lies elsewhere"]
    doubled = [(what, tuple(2 * value for value in box)) for what, box in good]
    assert differences(TWO, bad, doubled, sizes=(ImageSize(200, 200), SIZE)) == []
    assert differences(TWO, bad, doubled) == ["star: lies elsewhere"]
