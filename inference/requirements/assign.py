"""Which found object stands for which asked one, so that the fewest edits are left.

An asked object that is not there is best made of one that nobody asked for; one of its own class and another colour is
recoloured; and of several ways with as many edits, that is taken after which the objects stand where they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from inference.grounding.check import relative_position
from schemas.records import RELATIONS, DetectedObject, PromptRecord

RECOLOR, RESHAPE, BOTH, ADD, MOVE = 1.0, 1.1, 1.5, 1.0, 1.0
"""What an edit counts. Both: one object gets another class and another colour."""
SURPLUS = 0.75
"""What an object counts that nobody asked for: rather changed than left beside one that is added."""
LEFT_OVER = 1.5
"""What it counts besides if its class is asked for: an image with a second one is seldom right."""
CONFIDENCE = 0.1
"""How much more a sure detection counts than an unsure one, where edits are alike."""


@dataclass(frozen=True)
class Slot:
    """One asked object of an include clause."""

    clause: int
    class_name: str
    color: str | None = None


def slots_of(record: PromptRecord) -> list[Slot]:
    """As many for each clause as it counts."""
    return [Slot(i, c.class_name, c.color) for i, c in enumerate(record.include) for _ in range(c.count)]


def assign(record: PromptRecord, objects: Sequence[DetectedObject]) -> list[DetectedObject | None]:
    """For each slot of `slots_of` the object that stands for it, whatever it is; None where one must be added."""
    from scipy.optimize import linear_sum_assignment

    slots = slots_of(record)
    costs = np.full((len(slots), len(objects) + len(slots)), ADD)
    asked = {slot.class_name for slot in slots}
    for row, slot in enumerate(slots):
        for column, item in enumerate(objects):
            surplus = SURPLUS + LEFT_OVER * (item.class_name in asked)
            costs[row, column] = edits_between(slot, item) - surplus - CONFIDENCE * item.score
    _, chosen = linear_sum_assignment(costs)
    columns = _with_places(record, slots, objects, costs, chosen.tolist())
    return [objects[column] if column < len(objects) else None for column in columns]


def edits_between(slot: Slot, item: DetectedObject) -> float:
    """What it takes to make of `item` what is asked for."""
    is_colored = slot.color in (None, item.color)
    if item.class_name == slot.class_name:
        return 0.0 if is_colored else RECOLOR
    return RESHAPE if is_colored else BOTH


def misplaced(record: PromptRecord, slots: Sequence[Slot], items: Sequence[DetectedObject | None]) -> list[int]:
    """The clauses whose relation does not hold between the objects that stand for them; one that is still to be added
    can be put where it belongs."""
    wrong = []
    for index, clause in enumerate(record.include):
        if clause.relation is None or clause.relative_to is None:
            continue
        own = [item for slot, item in zip(slots, items, strict=True) if slot.clause == index and item]
        other = [item for slot, item in zip(slots, items, strict=True) if slot.clause == clause.relative_to and item]
        if any(clause.relation not in relative_position(a.box, b.box) for a in own for b in other):
            wrong.append(index)
    return wrong


def _with_places(
    record: PromptRecord,
    slots: Sequence[Slot],
    objects: Sequence[DetectedObject],
    costs: np.ndarray,
    columns: list[int],
) -> list[int]:
    """Objects exchanged, two slots' or a slot's with one that stands for none, while that saves edits and moves."""
    if not any(clause.relation for clause in record.include):
        return columns

    @cache
    def relations(a: int, b: int) -> set[str]:
        is_there = a < len(objects) and b < len(objects)
        return relative_position(objects[a].box, objects[b].box) if is_there else set(RELATIONS)

    rows = [[row for row, slot in enumerate(slots) if slot.clause == index] for index in range(len(record.include))]
    asked = [
        (rows[i], c.relation, rows[c.relative_to]) for i, c in enumerate(record.include) if c.relative_to is not None
    ]
    table = costs.tolist()

    def total(chosen: Sequence[int]) -> float:
        moves = sum(
            any(relation not in relations(chosen[a], chosen[b]) for a in own for b in other)
            for own, relation, other in asked
        )
        return sum(table[row][column] for row, column in enumerate(chosen)) + MOVE * moves

    best = total(columns)
    while True:
        better = min(((total(other), other) for other in _neighbours(columns, costs.shape[1])), default=(best, columns))
        if better[0] >= best - 1e-9:
            return columns
        best, columns = better


def _neighbours(columns: list[int], number: int) -> list[list[int]]:
    found = []
    for row, column in enumerate(columns):
        for other in range(number):
            if other == column:
                continue
            changed = [column if c == other else c for c in columns]
            changed[row] = other
            found.append(changed)
    return found
