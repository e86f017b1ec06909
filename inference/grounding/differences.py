"""What differs between a bad image and a good one beside what the rule's reflection says: two checks compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from inference.grounding.check import UNKNOWN_COLOR
from inference.grounding.reasons import FailureKind, parse_reason
from schemas.image_size import ImageSize
from schemas.records import Check, DetectedObject

PLACES = (FailureKind.RELATION, FailureKind.NO_TARGET)


def unexplained_differences(good: Check, bad: Check, sizes: tuple[ImageSize, ImageSize], max_shift: float) -> list[str]:
    """Each a few words; empty where all that differs between two checked images is what `write_reflection` says of the
    bad one.

    Compared are the objects of the classes that the prompt names, which are all that a check looks for: how many there
    are, of which colours, and where. What is said of a class may change that class alone, and in that alone: what is
    added or removed leaves the others as they are, what is recoloured stays in its place, what is moved keeps its
    colour.

    sizes: of the good image and the bad one, in pixels. max_shift: of an object that stays, in each direction, as a
    share of the image.
    """
    told: dict[str, set[FailureKind]] = {}
    for failure in map(parse_reason, bad.reasons):
        told.setdefault(failure.class_name, set()).add(failure.kind)
    names = dict.fromkeys(found.class_name for found in (*bad.objects, *good.objects))
    return [line for name in names for line in _of_class(name, told.get(name, set()), good, bad, sizes, max_shift)]


def _of_class(
    name: str,
    told: set[FailureKind],
    good: Check,
    bad: Check,
    sizes: tuple[ImageSize, ImageSize],
    max_shift: float,
) -> Iterator[str]:
    before, after = ([o for o in check.objects if o.class_name == name] for check in (bad, good))
    grows, shrinks = FailureKind.MISSING in told, FailureKind.TOO_MANY in told
    if (len(after) > len(before) and not grows) or (len(after) < len(before) and not shrinks):
        yield f"{name}: {len(before)} in the bad image, {len(after)} in the good one"
        return
    stays = before if len(before) <= len(after) else after  # in both images, so far as numbers go
    may_be_recolored = FailureKind.COLOR in told
    if not may_be_recolored:
        of_all = Counter(map(_color, before if stays is after else after))
        if lost := Counter(map(_color, stays)) - of_all:
            yield f"{name}: {next(iter(lost))} in one image, not in the other"
            return
    if not told.intersection(PLACES) and not _in_place(before, after, sizes, max_shift, may_be_recolored):
        yield f"{name}: lies elsewhere"


def _color(found: DetectedObject) -> str:
    return found.color or UNKNOWN_COLOR


def _in_place(
    before: Sequence[DetectedObject],
    after: Sequence[DetectedObject],
    sizes: tuple[ImageSize, ImageSize],
    max_shift: float,
    may_be_recolored: bool,
) -> bool:
    """Whether each object of the image that has fewer lies where one of the other's does."""
    from scipy.optimize import linear_sum_assignment

    far = np.ones((len(before), len(after)))
    for i, old in enumerate(before):
        for j, new in enumerate(after):
            shift = np.abs(_center(new, sizes[0]) - _center(old, sizes[1])).max()
            is_same = may_be_recolored or _color(old) == _color(new)
            far[i, j] = shift > max_shift or not is_same
    return not far[linear_sum_assignment(far)].any()


def _center(found: DetectedObject, size: ImageSize) -> np.ndarray:
    """(x, y), each in [0, 1] from one side of the image to the other."""
    x0, y0, x1, y1 = found.box
    return np.array([(x0 + x1) / 2 / size.width, (y0 + y1) / 2 / size.height])
