"""How far an image meets each typed requirement, by GenEval's rules on what a detector found in it, and what would mend
those that fail. No models, only arithmetic.

The rules are those of `inference.grounding.check`, requirement by requirement: of a class the most confident objects
are looked at, as many as are asked for. Where several clauses are of one class ("a red star and a blue star"), these
objects are shared out among them by colour and place, so that each is looked at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from inference.grounding.check import (
    RULES_SCALE,
    objects_by_class,
    refuse_bad_clauses,
    relative_position,
    score_of,
    soft_relation,
    surplus_score,
)
from inference.requirements.assign import assign
from inference.requirements.atoms import HOLDS, Atom, AtomKind, atoms_of
from inference.requirements.mends import Mends
from schemas.records import AtomValue, DetectedObject, PromptRecord

JUST_BELOW = HOLDS - 1e-6
SAME_BOX_IOU = 0.6
"""Boxes of two classes that overlap more are one object, of the class that the detector is surer of."""
UNSURE = (0.25, 0.7)
"""Scores between which a detector may be wrong about an object: malformed ones, one of two that lie together."""


def typed_atoms(
    record: PromptRecord,
    objects: Sequence[DetectedObject],
    others: Sequence[DetectedObject] = (),
    unsure: tuple[float, float] = UNSURE,
) -> tuple[AtomValue, ...]:
    """A value for each typed atom of `atoms_of(record)`, in its order, and what would mend it.

    objects: what was found of the record's classes; others: of classes that nobody asked for; those that the detector
    is sure of may stand in an asked object's place. A mend is the one that is right over the longest stretch of
    thresholds between the two scores of `unsure`, so what holds by a hair has one, too. InputError for a clause that no
    image can be checked against.
    """
    refuse_bad_clauses(record)
    atoms = [atom for atom in atoms_of(record) if atom.kind is not AtomKind.QUESTION]
    met = _all_met(record, atoms, objects)
    mends = _likeliest_mends(record, atoms, objects, others, unsure)
    return tuple(
        AtomValue(atom.kind.value, atom.text, _probability(*how), mend)
        for atom, how, mend in zip(atoms, met, mends, strict=True)
    )


def _likeliest_mends(
    record: PromptRecord,
    atoms: Sequence[Atom],
    objects: Sequence[DetectedObject],
    others: Sequence[DetectedObject],
    unsure: tuple[float, float],
) -> list[str | None]:
    """Each atom's mend that holds over the longest stretch of thresholds; None where none does."""
    low, high = unsure
    seen = each_once([*objects, *(item for item in others if item.score >= high)])
    asked = {id(item) for item in objects}
    steps = [low, *sorted({item.score for item in seen if low < item.score < high}), high]
    votes: list[defaultdict[str, float]] = [defaultdict(float) for _ in atoms]
    for below, above in pairwise(steps):
        sure = [item for item in seen if item.score >= above or item.score >= high]
        mends = Mends(record, sure)
        for vote, atom, (holds, _) in zip(
            votes, atoms, _all_met(record, atoms, [item for item in sure if id(item) in asked]), strict=True
        ):
            mend = None if holds else mends.of(atom)
            if mend:
                vote[mend] += above - below
    return [max(vote, key=lambda mend: vote[mend]) if vote else None for vote in votes]


def each_once(objects: Sequence[DetectedObject]) -> list[DetectedObject]:
    """Without boxes that lie on a surer one's of another class, best first."""
    kept: list[DetectedObject] = []
    for item in sorted(objects, key=lambda o: -o.score):
        if all(o.class_name == item.class_name or _iou(o.box, item.box) < SAME_BOX_IOU for o in kept):
            kept.append(item)
    return kept


def _all_met(
    record: PromptRecord, atoms: Sequence[Atom], objects: Sequence[DetectedObject]
) -> list[tuple[bool, float]]:
    found, by_class = _of_clauses(record, objects), objects_by_class(objects)
    return [_met(record, atom, found, by_class) for atom in atoms]


def _of_clauses(record: PromptRecord, objects: Sequence[DetectedObject]) -> list[list[DetectedObject]]:
    """The objects that each include clause is judged by, at most as many as it asks for."""
    by_class = objects_by_class(objects)
    found = [by_class.get(clause.class_name, [])[: clause.count] for clause in record.include]
    names = [clause.class_name for clause in record.include]
    for name in {name for name in names if names.count(name) > 1}:
        total = sum(clause.count for clause in record.include if clause.class_name == name)
        others = [o for other in set(names) - {name} for o in by_class.get(other, [])]
        items = iter(assign(record, [*by_class.get(name, [])[:total], *others]))
        for index, clause in enumerate(record.include):
            mine = [next(items) for _ in range(clause.count)]
            if clause.class_name == name:
                found[index] = [item for item in mine if item and item.class_name == name]
    return found


def _met(
    record: PromptRecord,
    atom: Atom,
    found: Sequence[Sequence[DetectedObject]],
    by_class: Mapping[str, Sequence[DetectedObject]],
) -> tuple[bool, float]:
    """Whether an atom holds, and how well it is met, in [0, 1]."""
    if atom.excluded is not None:
        clause = record.exclude[atom.excluded]
        candidates = by_class.get(clause.class_name, [])
        return len(candidates) < clause.count, 1.0 - surplus_score(candidates, clause.count)
    assert atom.clause is not None
    clause, mine = record.include[atom.clause], found[atom.clause]
    is_whole = len(mine) == clause.count
    if atom.kind is AtomKind.COLOR:
        right = [item.score for item in mine if item.color == clause.color]
        return len(right) == clause.count, sum(right) / clause.count
    if atom.kind is AtomKind.RELATION:
        assert clause.relation is not None
        assert clause.relative_to is not None
        target = record.include[clause.relative_to]
        pairs = [(a, b) for a in mine for b in found[clause.relative_to]]
        soft = sum(soft_relation(a, b, clause.relation) for a, b in pairs) / (clause.count * target.count)
        stand = all(clause.relation in relative_position(a.box, b.box) for a, b in pairs)
        return stand and len(pairs) == clause.count * target.count, soft
    soft = sum(item.score for item in mine) / clause.count
    if atom.kind is AtomKind.COUNT:
        candidates = by_class.get(clause.class_name, [])
        for excluded in record.exclude:
            if excluded.class_name == clause.class_name:
                is_whole = is_whole and len(candidates) < excluded.count
                soft = min(soft, 1.0 - surplus_score(candidates, excluded.count))
    return is_whole, soft


def _probability(holds: bool, soft: float) -> float:
    """At least .5 for what holds, below it for what does not; its log-odds are on the verifiers' common scale."""
    value = 1.0 / (1.0 + math.exp(-(score_of(holds, soft) - 0.5) * RULES_SCALE))
    return max(value, HOLDS) if holds else min(value, JUST_BELOW)


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)
