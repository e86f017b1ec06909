"""Scene edits by one operation: doing one, and naming the one that leads from a scene to another.

`sample_edit` gives triplets (before, instruction, after); `wrong_scene` gives pairs (wrong, right) with the reflection
that leads from one to the other. How edits are worded is in `microworld.scenes.instructions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from microworld.scenes.captions import (
    RELATIONS,
    Caption,
    bounding_square,
    is_true_of,
    place_of,
    relations_between,
)
from microworld.scenes.instructions import Edit, Operation
from microworld.scenes.world import (
    COLORS,
    FRAME_PX,
    MAX_OBJECTS,
    MIN_GAP_PX,
    MIN_SIZE_PX,
    SHAPES,
    Scene,
    SceneObject,
)

MIN_MOVE_PX = 6.0
FRAME_MARGIN_PX = 0.5  # as in world.place_objects
CONFUSED_SHARE = 0.3  # new shapes and colours that are another object's, as generators confuse them
LIKELY_OPERATION = 0.6  # share of wrong scenes that fail in the way typical of their tag

_TYPICAL: dict[str, Operation] = {
    "single_object": Operation.RESHAPE,
    "two_object": Operation.REMOVE,
    "counting": Operation.RECOUNT,
    "colors": Operation.RECOLOR,
    "position": Operation.MOVE,
    "color_attr": Operation.RECOLOR,
}


def sample_edit(rng: np.random.Generator, scene: Scene, caption: Caption | None = None) -> tuple[Edit, Scene]:
    """An edit and the scene after it: valid again, with the background and all other objects untouched.

    With a `caption` that is true of the scene, only edits after which it is false.
    """
    operations = list(Operation)
    while True:
        after = _apply(rng, operations[rng.integers(len(operations))], scene)
        if after is None or (caption is not None and is_true_of(caption, after)):
            continue
        if (edit := name_edit(scene, after, rng)) is not None:
            return edit, after


def wrong_scene(rng: np.random.Generator, caption: Caption, scene: Scene) -> tuple[Edit, Scene]:
    """A scene that violates `caption` by one operation, and the edit that leads from it back to `scene`.

    Of the edit's colours and places only what the caption demands, or what tells objects apart, is named: its
    instruction is the reflection of the pair. ValueError if the caption is not true of `scene`.
    """
    if not is_true_of(caption, scene):
        raise ValueError(f"{caption.text!r} is not true of the scene; wrong_scene starts from a right one")
    operations = list(Operation)
    while True:
        typical = rng.random() < LIKELY_OPERATION
        operation = _TYPICAL[caption.tag] if typical else operations[rng.integers(len(operations))]
        wrong = _apply(rng, operation, scene)
        if wrong is None or is_true_of(caption, wrong):
            continue
        if (edit := name_edit(wrong, scene, rng, caption)) is not None:
            return edit, wrong


def exchanged(scene: Scene, one: int, other: int) -> Scene:
    """Two objects in each other's place and size: what is left of the other then is right of it. The generator draws
    nearly all wrong relations the wrong way round, and large, so there is seldom room to move but one."""
    objects = list(scene.objects)
    a, b = objects[one], objects[other]
    objects[one] = replace(a, cx=b.cx, cy=b.cy, size=b.size)
    objects[other] = replace(b, cx=a.cx, cy=a.cy, size=a.size)
    return replace(scene, objects=tuple(objects))


def muddled(rng: np.random.Generator, scene: Scene) -> Scene:
    """Two objects with each other's colours, places or both, or something else wrong besides; at times the same scene.
    So the generator draws what it was not trained on. scene: of two objects."""
    if rng.random() < 0.6:
        a, b = scene.objects
        scene = replace(scene, objects=(replace(a, color=b.color), replace(b, color=a.color)))
    if rng.random() < 0.6:
        scene = exchanged(scene, 0, 1)
    return sample_edit(rng, scene)[1] if rng.random() < 0.4 else scene


def _apply(rng: np.random.Generator, operation: Operation, scene: Scene) -> Scene | None:
    """One random operation; None where it cannot be done (no room, no object)."""
    objects = scene.objects
    if operation is Operation.ADD or (operation is Operation.RECOUNT and objects and rng.random() < 0.5):
        model = objects[rng.integers(len(objects))] if operation is Operation.RECOUNT else None
        added = _free_object(rng, objects, model)
        return replace(scene, objects=(*objects, added)) if added else None
    if not objects:
        return None
    index = int(rng.integers(len(objects)))
    item = objects[index]
    others = objects[:index] + objects[index + 1 :]
    match operation:
        case Operation.REMOVE | Operation.RECOUNT:
            return replace(scene, objects=others)
        case Operation.RECOLOR:
            color = _other(rng, list(COLORS), item.color, [o.color for o in others])
            alike = [o.shape == item.shape and o.color == item.color for o in objects]
            if rng.random() < 0.5:  # the whole group, where there is one
                alike = [i == index for i in range(len(objects))]
            changed = tuple(replace(o, color=color) if a else o for o, a in zip(objects, alike, strict=True))
            return replace(scene, objects=changed)
        case Operation.RESHAPE:
            changed = replace(item, shape=_other(rng, list(SHAPES), item.shape, [o.shape for o in others]))
        case _:
            square = _free_square(rng, others, item.size, away_from=item)
            if square is None:
                return None
            changed = replace(item, cx=square[0], cy=square[1])
    return replace(scene, objects=(*objects[:index], changed, *objects[index + 1 :]))


def _other(rng: np.random.Generator, names: Sequence[str], current: str, nearby: Sequence[str]) -> str:
    """Another name than `current`; often one that another object of the scene has."""
    confused = [name for name in nearby if name != current]
    choices = confused if confused and rng.random() < CONFUSED_SHARE else [n for n in names if n != current]
    return choices[rng.integers(len(choices))]


def _free_object(
    rng: np.random.Generator, objects: Sequence[SceneObject], model: SceneObject | None
) -> SceneObject | None:
    """A new object that keeps its distance: like `model` in shape and mostly colour, or any."""
    if len(objects) >= MAX_OBJECTS:
        return None
    shapes, colors = list(SHAPES), list(COLORS)
    shape = model.shape if model else shapes[rng.integers(len(shapes))]
    keeps_color = model is not None and rng.random() < 0.8
    color = model.color if model and keeps_color else colors[rng.integers(len(colors))]
    for size in (rng.uniform(MIN_SIZE_PX, 12.0), rng.uniform(MIN_SIZE_PX, 9.0)):
        square = _free_square(rng, objects, float(size))
        if square is not None:
            return SceneObject(shape, color, *square, float(size), model.stroke if model else 0.0)
    return None


def _free_square(
    rng: np.random.Generator, objects: Sequence[SceneObject], size: float, away_from: SceneObject | None = None
) -> tuple[float, float] | None:
    """A centre where a square of `size` px keeps its distance to all objects; None if 32 tries find none."""
    margin = size / 2 + FRAME_MARGIN_PX
    centres = rng.uniform(margin, FRAME_PX - margin, (32, 2))
    others = np.array([(o.cx, o.cy, o.size) for o in objects]).reshape(-1, 3)
    apart = np.abs(centres[:, None] - others[None, :, :2]).max(-1)
    free = (apart >= (size + others[:, 2]) / 2 + MIN_GAP_PX).all(1)
    if away_from is not None:
        free &= np.hypot(*(centres - (away_from.cx, away_from.cy)).T) >= MIN_MOVE_PX
    return (float(centres[free.argmax()][0]), float(centres[free.argmax()][1])) if free.any() else None


# --- Naming the difference of two scenes -----------------------------------------------------------------------------


def name_edit(before: Scene, after: Scene, rng: np.random.Generator, caption: Caption | None = None) -> Edit | None:
    """The edit that leads from one scene to another that differs by one operation.

    With a caption, colours that it does not demand are named only where they tell objects apart. None where no
    sentence says it (one of several alike moves; a move without a clear relation or place).
    """
    gone = list((Counter(before.objects) - Counter(after.objects)).elements())
    come = list((Counter(after.objects) - Counter(before.objects)).elements())
    if not gone and len(come) == 1:
        return _name_addition(before, come[0], caption)
    if len(gone) == 1 and not come:
        return _name_removal(before, gone[0], caption)
    if not gone or len(gone) != len(come):
        return None
    old, new = gone[0], come[0]
    alike = [o for o in before.objects if (o.shape, o.color) == (old.shape, old.color)]
    if old.shape == new.shape and old.color != new.color:
        one_of = len(gone) < len(alike)
        return Edit(Operation.RECOLOR, old.shape, old.color, len(gone), new_color=new.color, one_of=one_of)
    if len(gone) > 1:
        return None
    color, is_unique = _descriptor(old, before)
    if old.shape != new.shape:
        return Edit(Operation.RESHAPE, old.shape, color, new_shape=new.shape, one_of=not is_unique)
    return _name_move(before, old, new, rng, caption) if is_unique else None


def _descriptor(item: SceneObject, scene: Scene) -> tuple[str | None, bool]:
    """The colour that the object's name needs, and whether the name then means it alone."""
    same_shape = [o for o in scene.objects if o.shape == item.shape]
    alike = [o for o in same_shape if o.color == item.color]
    if len(same_shape) == len(alike):
        return None, len(alike) == 1
    return item.color, len(alike) == 1


def _demands_color(caption: Caption | None, shape: str) -> bool:
    return caption is None or any(c.color for c in caption.clauses if c.shape == shape)


def _relation_of(caption: Caption | None, shape: str) -> tuple[str, str] | None:
    """("left of", "ring") if the caption says where `shape` is, seen from the ring."""
    for clause in caption.clauses if caption else ():
        if clause.relation and caption:
            name, target = clause.relation[0], caption.clauses[clause.relation[1]].shape
            return (name, target) if clause.shape == shape else (RELATIONS[name], clause.shape)
    return None


def _name_addition(before: Scene, item: SceneObject, caption: Caption | None) -> Edit:
    same = [o for o in before.objects if o.shape == item.shape]
    alike = [o for o in same if o.color == item.color]
    color = item.color if _demands_color(caption, item.shape) else None
    if not same or (color and not alike):
        relation, target = _relation_of(caption, item.shape) or (None, None)
        if target and not any(o.shape == target for o in before.objects):
            relation = target = None
        return Edit(Operation.ADD, item.shape, color, relation=relation, target=target)
    if color and (len(alike) < len(same) or caption):
        return Edit(Operation.RECOUNT, item.shape, color, len(alike), new_count=len(alike) + 1)
    return Edit(Operation.RECOUNT, item.shape, None, len(same), new_count=len(same) + 1)


def _name_removal(before: Scene, item: SceneObject, caption: Caption | None) -> Edit:
    same = [o for o in before.objects if o.shape == item.shape]
    alike = [o for o in same if o.color == item.color]
    if len(same) == 1:
        return Edit(Operation.REMOVE, item.shape)
    if not _demands_color(caption, item.shape):
        return Edit(Operation.RECOUNT, item.shape, None, len(same), new_count=len(same) - 1)
    if len(alike) == 1:
        return Edit(Operation.REMOVE, item.shape, item.color)
    color = item.color if len(alike) < len(same) or caption else None
    return Edit(Operation.RECOUNT, item.shape, color, len(alike), new_count=len(alike) - 1)


def _name_move(
    before: Scene, old: SceneObject, new: SceneObject, rng: np.random.Generator, caption: Caption | None
) -> Edit | None:
    color, _ = _descriptor(old, before)
    demanded = _relation_of(caption, old.shape)
    options: list[Edit] = []
    for other in before.objects:
        target_color, is_unique = _descriptor(other, before)
        if other is old or not is_unique:
            continue
        for relation in RELATIONS:
            if demanded and demanded != (relation, other.shape):
                continue
            held = relation in relations_between(bounding_square(old), bounding_square(other))
            if not held and stands_clearly(new, other, relation):
                options.append(
                    Edit(
                        Operation.MOVE,
                        old.shape,
                        color,
                        relation=relation,
                        target=other.shape,
                        target_color=target_color,
                    )
                )
    if demanded is None and place_of(old) != place_of(new) and is_clearly_placed(new):
        options.append(Edit(Operation.MOVE, old.shape, color, place=place_of(new)))
    return options[rng.integers(len(options))] if options else None


def stands_clearly(item: SceneObject, other: SceneObject, relation: str) -> bool:
    """Whether the offset of the centres is within 30 degrees of the relation's axis."""
    dx, dy = item.cx - other.cx, item.cy - other.cy
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > 0 and abs(across) < 0.58 * along


def is_clearly_placed(item: SceneObject) -> bool:
    """Whether the centre is at least 1 px away from the inner lines of the 3 x 3 grid."""
    lines = np.array([FRAME_PX / 3, 2 * FRAME_PX / 3])
    return bool((np.abs(np.array([item.cx, item.cy])[:, None] - lines) >= 1.0).all())
