"""A scene after an edit that is named: what a corrector that always does as it is told would draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from microworld.scenes.edits import stands_clearly
from microworld.scenes.instructions import Edit, Operation
from microworld.scenes.world import COLORS, FRAME_PX, MAX_OBJECTS, MIN_GAP_PX, MIN_SIZE_PX, Scene, SceneObject

_TRIES = 400
_NEW_PX = 10.0


def apply_edit(rng: np.random.Generator, scene: Scene, edit: Edit) -> Scene:
    """The scene with the edit made; as it was where that cannot be done (no such object, no room)."""
    objects = list(scene.objects)
    chosen = [o for o in objects if o.shape == edit.shape and edit.color in (None, o.color)]
    match edit.operation:
        case Operation.ADD:
            for _ in range(edit.count or 1):
                _add(rng, objects, edit)
        case Operation.REMOVE:
            for item in chosen[: edit.count or len(chosen)]:
                objects.remove(item)
        case Operation.RECOUNT:
            wanted = edit.new_count or 0
            for item in chosen[wanted:]:
                objects.remove(item)
            for _ in range(wanted - len(chosen)):
                _add(rng, objects, edit)
        case Operation.RECOLOR if edit.new_color:
            for item in chosen[: 1 if edit.one_of else edit.count or len(chosen)]:
                objects[objects.index(item)] = replace(item, color=edit.new_color)
        case Operation.RESHAPE if chosen and edit.new_shape:
            objects[objects.index(chosen[0])] = replace(chosen[0], shape=edit.new_shape)
        case Operation.MOVE if chosen:
            _move(rng, objects, chosen[0], edit)
        case _:
            pass
    return replace(scene, objects=tuple(objects))


def _add(rng: np.random.Generator, objects: list[SceneObject], edit: Edit) -> None:
    if len(objects) < MAX_OBJECTS:
        color = edit.color or list(COLORS)[rng.integers(len(COLORS))]
        for size in (_NEW_PX, MIN_SIZE_PX):
            placed = _place(rng, objects, SceneObject(edit.shape, color, 0.0, 0.0, size), edit)
            if placed is not None:
                objects.append(placed)
                return


def _move(rng: np.random.Generator, objects: list[SceneObject], item: SceneObject, edit: Edit) -> None:
    others = [o for o in objects if o is not item]
    placed = _place(rng, others, item, edit)
    if placed is None:  # no room beside the target: both go to new places
        target = next((o for o in others if _is_target(o, edit)), None)
        if target is None:
            return
        rest = [o for o in others if o is not target]
        for _ in range(_TRIES // 20):
            moved = _place(rng, rest, replace(target, size=min(target.size, _NEW_PX)), None)
            smaller = replace(item, size=min(item.size, _NEW_PX))
            placed = _place(rng, [*rest, moved], smaller, edit) if moved else None
            if moved and placed:
                objects[objects.index(target)] = moved
                break
        else:
            return
    objects[objects.index(item)] = placed or item


def _is_target(item: SceneObject, edit: Edit) -> bool:
    return item.shape == edit.target and edit.target_color in (None, item.color)


def _place(
    rng: np.random.Generator, others: Sequence[SceneObject], item: SceneObject, edit: Edit | None
) -> SceneObject | None:
    """The item at a free place that the edit's relation allows; None if no try finds one."""
    target = next((o for o in others if edit and _is_target(o, edit)), None)
    relation = edit.relation if edit else None
    fits: Callable[[SceneObject], bool] = lambda there: True  # noqa: E731
    if target is not None and relation is not None:
        fits = lambda there: stands_clearly(there, target, relation)  # noqa: E731
    margin = item.size / 2 + 0.5
    for cx, cy in rng.uniform(margin, FRAME_PX - margin, (_TRIES, 2)):
        there = replace(item, cx=float(cx), cy=float(cy))
        apart = [max(abs(there.cx - o.cx), abs(there.cy - o.cy)) - (there.size + o.size) / 2 for o in others]
        if all(gap >= MIN_GAP_PX for gap in apart) and fits(there):
            return there
    return None
