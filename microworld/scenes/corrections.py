"""What is wrong with a scene: the edits that a caption asks for, said as a reflection, a comparison of two images, or a
refined prompt.

All of it is computed from the scene's truth by plain rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from microworld.scenes.captions import (
    RELATIONS,
    Caption,
    Clause,
    bounding_square,
    class_plural,
    relations_between,
)
from microworld.scenes.edits import name_edit
from microworld.scenes.instructions import Edit, Operation, instruction
from microworld.scenes.questions import NUMBERS, counted
from microworld.scenes.world import MAX_OBJECTS, Scene, SceneObject


def corrections(caption: Caption, scene: Scene, *, fewest: bool = False) -> tuple[Edit, ...]:
    """Edits after which the caption would hold, most basic first; () if it does. For scenes wrong in any way.

    A surplus object is reshaped where another is missing; colours are corrected before objects are added. Where the
    caption says how two objects stand, that one is reshaped which then stands right; if none would, the last edit is a
    move. fewest: where it takes fewer edits to reshape what has a wanted colour than to recolour what has a wanted
    shape, these: two objects in each other's places and colours need two, not two and a move.
    """
    found = _corrections(caption, scene, by_color=False)
    other = _corrections(caption, scene, by_color=True) if fewest else found
    return other if len(other) < len(found) else found


def _corrections(caption: Caption, scene: Scene, by_color: bool) -> tuple[Edit, ...]:
    has_relation = any(clause.relation for clause in caption.clauses)
    few = has_relation and len(scene.objects) <= MAX_OBJECTS
    orders = list(permutations(scene.objects)) if few else [scene.objects]
    plans = [_plan(caption, scene, order, by_color) for order in orders]
    stands_right = next((edits for edits, after in plans if _relations_hold(caption, after)), None)
    edits = plans[0][0] if stands_right is None else stands_right
    return _grouped(edits, scene) + (_move(caption) if stands_right is None else ())


def _plan(
    caption: Caption, scene: Scene, order: Sequence[SceneObject], by_color: bool
) -> tuple[list[Edit], list[SceneObject]]:
    """Edits by which the scene has what the caption names, and the objects that are there before and after them, as
    they then are. order: of the scene's objects; the first that fits a clause is taken for it."""
    free = list(order)
    wanted: list[Clause] = [replace(c, count=1, relation=None) for c in caption.clauses for _ in range(c.count)]
    after: list[SceneObject] = []
    for clause in list(wanted):
        match = [o for o in free if o.shape == clause.shape and clause.color in (None, o.color)]
        if match:
            after.append(match[0])
            free.remove(match[0])
            wanted.remove(clause)
    edits: list[Edit] = []
    for clause in list(wanted) if by_color else ():
        same_color = [o for o in free if o.color == clause.color]
        if same_color:
            item = same_color[0]
            alike = sum((o.shape, o.color) == (item.shape, item.color) for o in scene.objects)
            edits.append(Edit(Operation.RESHAPE, item.shape, item.color, new_shape=clause.shape, one_of=alike > 1))
            after.append(replace(item, shape=clause.shape))
            free.remove(item)
            wanted.remove(clause)
    for clause in list(wanted):
        same_shape = [o for o in free if o.shape == clause.shape]
        if same_shape:
            item = same_shape[0]
            alike = sum((o.shape, o.color) == (item.shape, item.color) for o in scene.objects)
            edits.append(Edit(Operation.RECOLOR, item.shape, item.color, new_color=clause.color, one_of=alike > 1))
            after.append(item)
            free.remove(item)
            wanted.remove(clause)
    is_placed = any(clause.relation for clause in caption.clauses)
    for clause, item in zip(list(wanted), list(free), strict=False):
        same_shape = [o for o in scene.objects if o.shape == item.shape]
        is_unique = len(same_shape) == 1
        color = clause.color if clause.color == item.color else None
        if is_placed and sum(o.color == item.color for o in same_shape) == 1 < len(same_shape):
            color, is_unique = item.color, True  # which one matters, and its colour tells
        edits.append(Edit(Operation.RESHAPE, item.shape, color, new_shape=clause.shape, one_of=not is_unique))
        if clause.color and color is None:
            edits.append(Edit(Operation.RECOLOR, clause.shape, None, new_color=clause.color))
        after.append(replace(item, shape=clause.shape))
        free.remove(item)
        wanted.remove(clause)
    return edits + _added(caption, scene, wanted) + _removed(caption, free), after


def _relations_hold(caption: Caption, objects: Sequence[SceneObject]) -> bool:
    """Of the objects that are there; what is still to be added can be put where it belongs."""
    return all(
        clause.relation is None or clause.relation[0] in relations_between(bounding_square(a), bounding_square(b))
        for clause in caption.clauses
        for a in (o for o in objects if o.shape == clause.shape)
        for b in (o for o in objects if clause.relation and o.shape == caption.clauses[clause.relation[1]].shape)
    )


def _grouped(edits: list[Edit], scene: Scene) -> tuple[Edit, ...]:
    """The edits, with one for all objects of a kind instead of one for each ("the three black stars")."""
    grouped: list[Edit] = []
    for edit, number in Counter(edits).items():
        alike = sum((o.shape, o.color) == (edit.shape, edit.color) for o in scene.objects)
        if edit.operation is Operation.RECOLOR and number == alike > 1:
            grouped.append(replace(edit, count=number, one_of=False))
        else:
            grouped += [edit] * number
    return tuple(grouped)


def _added(caption: Caption, scene: Scene, wanted: list[Clause]) -> list[Edit]:
    edits: list[Edit] = []
    for clause, missing in Counter(wanted).items():
        total = max(c.count for c in caption.clauses if (c.shape, c.color) == (clause.shape, clause.color))
        if missing == total:
            edits.append(Edit(Operation.ADD, clause.shape, clause.color, missing))
        else:
            edits.append(Edit(Operation.RECOUNT, clause.shape, clause.color, total - missing, new_count=total))
    return edits


def _removed(caption: Caption, surplus: list[SceneObject]) -> list[Edit]:
    edits: list[Edit] = []
    for shape, number in Counter(o.shape for o in surplus).items():
        kept = sum(c.count for c in caption.clauses if c.shape == shape)
        if kept:
            edits.append(Edit(Operation.RECOUNT, shape, None, kept + number, new_count=kept))
        else:
            edits.append(Edit(Operation.REMOVE, shape, None, number))
    return edits


def _move(caption: Caption) -> tuple[Edit, ...]:
    """To where the caption wants its subject."""
    subject = next((c for c in caption.clauses if c.relation), None)
    if subject is None or subject.relation is None:
        return ()
    relation, target = subject.relation
    return (Edit(Operation.MOVE, subject.shape, relation=relation, target=caption.clauses[target].shape),)


def compare(rng: np.random.Generator, caption: Caption, left: Scene, right: Scene) -> dict[str, str]:
    """Which of two images meets the caption better: keys Analysis, Result ("left" or "right") and Instructions.

    Instructions lead from the worse image to the better one. ValueError if both need equally many corrections.
    """
    needed = {"left": corrections(caption, left), "right": corrections(caption, right)}
    if len(needed["left"]) == len(needed["right"]):
        raise ValueError(f"both scenes need {len(needed['left'])} corrections to show {caption.text!r}; none is better")
    better = min(needed, key=lambda side: len(needed[side]))
    worse = "left" if better == "right" else "right"
    scenes = {"left": left, "right": right}
    edit = name_edit(scenes[worse], scenes[better], rng, caption) if not needed[better] else None
    edits = (edit,) if edit else needed[worse]
    sentences = [f"The {side} image shows {_situation(caption, scenes[side])}." for side in ("left", "right")]
    verdict = "matches the prompt" if not needed[better] else "is closer to the prompt"
    analysis = f"{' '.join(sentences)} The {better} image {verdict}, the {worse} image does not match it."
    told = " ".join(instruction(e, rng if rng.random() < 0.3 else None) for e in edits)
    return {"Analysis": analysis, "Result": better, "Instructions": told}


def _situation(caption: Caption, scene: Scene) -> str:
    """The inventory; for a position, where the two objects stand ("a red star below a blue ring")."""
    if caption.tag != "position" or len(scene.objects) != 2:
        return inventory(scene)
    first, second = scene.objects
    held = relations_between(bounding_square(first), bounding_square(second))
    relation = next((name for name in RELATIONS if name in held), "beside")
    return f"{counted(f'{first.color} {first.shape}')} {relation} {counted(f'{second.color} {second.shape}')}"


def inventory(scene: Scene) -> str:
    """ "two red stars and a blue ring"; "nothing" for an empty scene."""
    counts = Counter(f"{o.color} {o.shape}" for o in scene.objects)
    parts = [counted(name, number) for name, number in counts.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0] if parts else "nothing"


def refine_prompt(rng: np.random.Generator, caption: Caption, wrong: Scene) -> str:
    """The caption with its requirements said more plainly, those first that `wrong` misses; nothing new is demanded."""
    missed = {edit.operation for edit in corrections(caption, wrong)}
    hints: list[str] = []
    relation = next((c for c in caption.clauses if c.relation), None)
    if relation is not None and relation.relation and Operation.MOVE in missed:
        name, target = relation.relation
        hints.append(f"the {caption.clauses[target].shape} is {RELATIONS[name]} the {relation.shape}")
    if Operation.RECOLOR in missed:
        for clause in caption.clauses:
            noun = clause.shape if clause.count == 1 else class_plural(clause.shape)
            if clause.color:
                hints.append(f"the {noun} {'is' if clause.count == 1 else 'are'} {clause.color}")
    total = sum(c.count for c in caption.clauses)
    if not hints or missed & {Operation.ADD, Operation.REMOVE, Operation.RECOUNT, Operation.RESHAPE}:
        names = [counted(c.shape, c.count) for c in caption.clauses]
        exactly = f"exactly {NUMBERS[total]} {'object' if total == 1 else 'objects'}"
        hints.append(f"{exactly}, {' and '.join(names)}" if rng.random() < 0.5 else f"{exactly}, clearly visible")
    return ", ".join([caption.text, *hints])
