"""Does an image show what a prompt asks for? GenEval's rules over detected objects: no models, only arithmetic.

The rules are those of GenEval (Ghosh et al., 2023; djghosh13/geneval, `evaluate_images.py`): every `include` clause
must hold, any `exclude` clause with `count` or more objects fails. Of a class only the `count` most confident objects
are looked at for colour and place; a clause whose target failed fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inference.grounding.reasons import Failure, FailureKind
from schemas.errors import InputError
from schemas.records import RELATIONS, Check, DetectedObject, PromptRecord

MAX_OBJECTS = 16  # GenEval: at most this many objects of a class, by falling score
POSITION_SHRINK = 0.1  # GenEval, POSITION_THRESHOLD: offsets shrink by this share of the two objects' sizes
RELATION_CUTOFF = 0.5  # GenEval: a relation holds where the normalised component is beyond this
UNKNOWN_COLOR = "unknown"
RULES_SCALE = 20.0  # makes of a score about what the other verifiers' log-odds are; from 10 to 40 it is all one


@dataclass
class _ClauseState:
    """What was found for one include clause: its objects, whether it still holds, and soft values in [0, 1]."""

    found: list[DetectedObject]
    holds: bool
    soft: list[float]


def check_objects(prompt: PromptRecord, objects: Sequence[DetectedObject]) -> Check:
    """GenEval's verdict on `objects` (boxes in px, colours named already) for `prompt`.

    The score is 0.5 + soft / 2 for a correct image and soft / 2 for a wrong one, where soft is the mean over all
    requirements (number, colour and relation of each include clause, each exclude clause) of how well it is met, in
    [0, 1], weighted by the detector's confidence. So every correct image is in [0.5, 1], every wrong one in [0, 0.5).

    Raises InputError for a clause that no image can be checked against.
    """
    refuse_bad_clauses(prompt)
    by_class = objects_by_class(objects)
    failures: list[list[Failure]] = [[] for _ in prompt.include]
    states = []
    for index, clause in enumerate(prompt.include):
        candidates = by_class.get(clause.class_name, [])
        found = candidates[: clause.count]
        state = _ClauseState(found, True, [sum(o.score for o in found) / clause.count])
        states.append(state)
        if len(found) < clause.count:
            failures[index].append(
                Failure(FailureKind.MISSING, clause.class_name, count=clause.count, num_found=len(found))
            )
            state.holds = False
        if clause.color is not None:
            state.soft.append(sum(o.score for o in found if o.color == clause.color) / clause.count)
            # A clause that lacks objects has failed already; GenEval names no colours then.
            if state.holds and any(o.color != clause.color for o in found):
                colors = tuple(o.color or UNKNOWN_COLOR for o in found)
                failures[index].append(
                    Failure(
                        FailureKind.COLOR,
                        clause.class_name,
                        count=clause.count,
                        color=clause.color,
                        found_colors=colors,
                    )
                )
                state.holds = False
    _check_relations(prompt, states, failures)
    soft = [value for state in states for value in state.soft]
    reasons = [failure for clause_failures in failures for failure in clause_failures]
    for clause in prompt.exclude:
        candidates = by_class.get(clause.class_name, [])
        soft.append(1.0 - surplus_score(candidates, clause.count))
        if len(candidates) >= clause.count:
            reasons.append(
                Failure(FailureKind.TOO_MANY, clause.class_name, count=clause.count, num_found=len(candidates))
            )
    score = score_of(not reasons, float(np.mean(soft)) if soft else 1.0)
    return Check(not reasons, score, tuple(f.sentence() for f in reasons), tuple(objects))


def score_of(holds: bool, soft: float) -> float:
    """In [0.5, 1] for what holds, in [0, 0.5) for what does not. soft: how well it is met, in [0, 1]."""
    soft = min(1.0, max(0.0, soft))
    return 0.5 + 0.5 * soft if holds else min(0.5 * soft, float(np.nextafter(0.5, 0.0)))


def _check_relations(prompt: PromptRecord, states: list[_ClauseState], failures: list[list[Failure]]) -> None:
    """Each object of a clause against each of its target's, clause by clause (a failed one is no target any more)."""
    for index, clause in enumerate(prompt.include):
        if clause.relation is None or clause.relative_to is None:
            continue
        state, target = states[index], states[clause.relative_to]
        target_clause = prompt.include[clause.relative_to]
        pairs = [(a, b) for a in state.found for b in target.found]
        state.soft.append(sum(soft_relation(a, b, clause.relation) for a, b in pairs) / _expected_pairs(prompt, index))
        if not state.holds:
            continue
        failure = None
        if not target.holds:
            failure = Failure(FailureKind.NO_TARGET, clause.class_name, count=clause.count, relation=clause.relation)
        else:
            for a, b in pairs:
                relations = relative_position(a.box, b.box)
                if clause.relation not in relations:
                    found = tuple(r for r in RELATIONS if r in relations)
                    failure = Failure(
                        FailureKind.RELATION,
                        clause.class_name,
                        count=clause.count,
                        relation=clause.relation,
                        found_relations=found,
                    )
                    break
        if failure is not None:
            state.holds = False
            failures[index].append(failure.with_target(target_clause.class_name))


def _expected_pairs(prompt: PromptRecord, index: int) -> int:
    clause = prompt.include[index]
    assert clause.relative_to is not None
    return clause.count * prompt.include[clause.relative_to].count


def surplus_score(candidates: Sequence[DetectedObject], count: int) -> float:
    """Of the object that is one too many where `count` are; 0 where there are fewer. candidates: best first."""
    return candidates[count - 1].score if len(candidates) >= count else 0.0


def relative_position(a: Sequence[float], b: Sequence[float]) -> set[str]:
    """The relations in which box `a` stands to box `b` (x0, y0, x1, y1): none, one, or two on a diagonal (GenEval)."""
    x, y = _position_components(a, b)
    held = {"left of": x < -RELATION_CUTOFF, "right of": x > RELATION_CUTOFF}
    held |= {"above": y < -RELATION_CUTOFF, "below": y > RELATION_CUTOFF}
    return {name for name, holds in held.items() if holds}


def _position_components(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Shrunk offset of the centres by the norm of the unshrunk one: each in [-1, 1], (0, 0) where `a` lies on `b`."""
    box_a, box_b = np.asarray(a, float).reshape(2, 2), np.asarray(b, float).reshape(2, 2)
    offset = box_a.mean(0) - box_b.mean(0)
    sizes = np.abs(box_a[1] - box_a[0]) + np.abs(box_b[1] - box_b[0])
    shrunk = np.maximum(np.abs(offset) - POSITION_SHRINK * sizes, 0) * np.sign(offset)
    if np.all(np.abs(shrunk) < 1e-3):
        return 0.0, 0.0
    x, y = (shrunk / np.linalg.norm(offset)).tolist()
    return x, y


def soft_relation(a: DetectedObject, b: DetectedObject, relation: str) -> float:
    """1 where `a` is wholly on the right side, 0 where it is wholly on the other, times both objects' confidence."""
    x, y = _position_components(a.box, b.box)
    along = {"left of": -x, "right of": x, "above": -y, "below": y}[relation]
    return 0.5 * (1.0 + along) * float(np.sqrt(a.score * b.score))


def objects_by_class(objects: Sequence[DetectedObject]) -> dict[str, list[DetectedObject]]:
    """By falling score; of equal ones the later first, as GenEval's reversed `argsort` has them."""
    groups: dict[str, list[DetectedObject]] = {}
    for item in sorted(objects, key=lambda o: o.score)[::-1]:
        group = groups.setdefault(item.class_name, [])
        if len(group) < MAX_OBJECTS:
            group.append(item)
    return groups


def refuse_bad_clauses(prompt: PromptRecord) -> None:
    """InputError for a clause that no image can be checked against."""
    for place, clauses in (("include", prompt.include), ("exclude", prompt.exclude)):
        for index, clause in enumerate(clauses):
            field = f"{place}[{index}] of prompt {prompt.prompt_id}"
            if clause.count < 1:
                raise InputError("a clause's count must be at least 1", field=field, expected="1, 2, 3, ...")
            if clause.relation is None and clause.relative_to is None:
                continue
            if clause.relation not in RELATIONS:
                raise InputError(f"unknown relation {clause.relation!r}", field=field, expected=", ".join(RELATIONS))
            others = [i for i in range(len(prompt.include)) if place == "exclude" or i != index]
            if clause.relative_to not in others:
                raise InputError(
                    f"`relative_to` is {clause.relative_to}, which is no other include clause",
                    field=field,
                    expected=f"one of {others}",
                )
