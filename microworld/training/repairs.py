"""Repair what the micro generator drew wrong: the edits that a caption asks for, done to the image itself.

An editing dataset of the micro world needs an editor. It is told what is in a drawing (by the pixel scorer), does the
edits that the caption asks for, and paints them over the drawing; whatever they do not touch keeps its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from microworld.scenes.captions import RELATIONS, Caption, bounding_square, is_true_of, relations_between
from microworld.scenes.corrections import corrections
from microworld.scenes.edits import exchanged, stands_clearly
from microworld.scenes.instructions import Edit, Operation
from microworld.scenes.world import (
    COLORS,
    FRAME_PX,
    MAX_OBJECTS,
    MIN_GAP_PX,
    MIN_SIZE_PX,
    Background,
    Scene,
    SceneObject,
    render,
)

_TRIES = 8
BLOB = "blob"  # what the pixel scorer calls a component that fits no shape


def repair(
    rng: np.random.Generator, caption: Caption, scene: Scene, *, fewest: bool = False
) -> tuple[tuple[Edit, ...], Scene] | None:
    """The edits that make `caption` true of what was drawn, and the scene after them. Malformed things are gone, and
    new ones stand in their places if they can. None where nothing is to be repaired, or where it cannot be done.
    fewest: as in `corrections`."""
    clear = replace(scene, objects=tuple(o for o in scene.objects if o.shape != BLOB))
    blobs = [o for o in scene.objects if o.shape == BLOB]
    edits = corrections(caption, clear, fewest=fewest)
    if not edits or len(clear.objects) > MAX_OBJECTS:
        return None
    for _ in range(_TRIES):
        after: Scene | None = clear
        for edit in edits:
            after = _done(rng, edit, after, caption, blobs) if after is not None else None
        if after is not None and 0 < len(after.objects) <= MAX_OBJECTS and is_true_of(caption, after):
            return edits, after
    return None


def _done(
    rng: np.random.Generator, edit: Edit, scene: Scene, caption: Caption, blobs: Sequence[SceneObject]
) -> Scene | None:
    """The scene after one edit; None where it finds nothing to act on, or no room."""
    objects = list(scene.objects)
    named = [i for i, o in enumerate(objects) if o.shape == edit.shape and edit.color in (None, o.color)]
    if edit.operation is Operation.ADD or (
        edit.operation is Operation.RECOUNT and (edit.new_count or 0) > (edit.count or 0)
    ):
        number = edit.count or 1 if edit.operation is Operation.ADD else (edit.new_count or 0) - (edit.count or 0)
        model = objects[named[0]] if named else None
        for _ in range(number):
            new = _placed(rng, edit, objects, model, caption, blobs)
            if new is None:
                return None
            objects.append(new)
        return replace(scene, objects=tuple(objects))
    if not named:
        return None
    if edit.operation in (Operation.REMOVE, Operation.RECOUNT):
        number = (edit.count or 1) - (edit.new_count or 0) if edit.operation is Operation.RECOUNT else edit.count or 1
        gone = set(rng.permutation(named)[:number].tolist())
        return replace(scene, objects=tuple(o for i, o in enumerate(objects) if i not in gone))
    if edit.operation is Operation.RECOLOR and edit.new_color:
        named = [i for i in named if objects[i].color != edit.new_color]
        for i in named[: edit.count or 1]:
            objects[i] = replace(objects[i], color=edit.new_color)
    elif edit.operation is Operation.RESHAPE and edit.new_shape:
        index = named[int(rng.integers(len(named)))]
        objects[index] = replace(objects[index], shape=edit.new_shape, stroke=0.0)
    else:
        index = named[0]
        targets = [i for i, o in enumerate(objects) if o.shape == edit.target and edit.target_color in (None, o.color)]
        if targets and edit.relation:
            held = relations_between(bounding_square(objects[index]), bounding_square(objects[targets[0]]))
            if RELATIONS[edit.relation] in held:
                return exchanged(scene, index, targets[0])
        others = [o for i, o in enumerate(objects) if i != index]
        moved = _placed(rng, edit, others, objects[index], caption, ())
        if moved is None:
            return None
        objects[index] = moved
    return replace(scene, objects=tuple(objects))


def _placed(
    rng: np.random.Generator,
    edit: Edit,
    objects: Sequence[SceneObject],
    model: SceneObject | None,
    caption: Caption,
    blobs: Sequence[SceneObject],
) -> SceneObject | None:
    """An object like `model`, where there is room and where the caption and the edit want it."""
    colors = list(COLORS)
    color = edit.color or (model.color if model else colors[rng.integers(len(colors))])
    for size in (model.size if model else rng.uniform(8.0, 12.0), rng.uniform(MIN_SIZE_PX, 9.0)):
        size = float(np.clip(size, MIN_SIZE_PX, 14.0))
        margin = size / 2 + 0.5
        centres = rng.uniform(margin, FRAME_PX - margin, (96, 2))
        if blobs:
            blob = blobs[int(rng.integers(len(blobs)))]
            centres[:24] = np.clip(rng.normal((blob.cx, blob.cy), 1.0, (24, 2)), margin, FRAME_PX - margin)
        for cx, cy in centres:
            new = SceneObject(edit.shape, color, float(cx), float(cy), size)
            if all(_apart(new, o) for o in objects) and _stands_right(new, objects, caption):
                return new
    return None


def _apart(one: SceneObject, other: SceneObject) -> bool:
    return max(abs(one.cx - other.cx), abs(one.cy - other.cy)) >= (one.size + other.size) / 2 + MIN_GAP_PX


def _stands_right(new: SceneObject, objects: Sequence[SceneObject], caption: Caption) -> bool:
    """Whether a relation that the caption demands of the new object holds, clearly."""
    for clause in caption.clauses:
        if clause.relation is None:
            continue
        name, target = clause.relation[0], caption.clauses[clause.relation[1]].shape
        for subject, other in ((new, o) for o in objects):
            pair = (subject, other) if (subject.shape, other.shape) == (clause.shape, target) else None
            if (other.shape, subject.shape) == (clause.shape, target):
                pair = (other, subject)
            if pair is None:
                continue
            held = name in relations_between(bounding_square(pair[0]), bounding_square(pair[1]))
            if not held or not stands_clearly(*pair, name):
                return False
    return True


def paint_over(image: np.ndarray, before: Scene, after: Scene) -> np.ndarray:
    """uint8 (32, 32, 3): what is in `before` and not in `after` is taken away, what is new is drawn; the rest keeps its
    pixels. `before` is what `pixel_scorer.read_scene` read."""
    gone = [o for o in before.objects if o not in after.objects]
    new = tuple(o for o in after.objects if o not in before.objects)
    kept = [o for o in before.objects if o in after.objects]
    ground = _ground(image, before)
    touched = np.zeros(image.shape[:2], bool)
    for item in gone:
        touched |= _square(item, 2.0)
    for item in kept:
        touched &= ~_square(item, 0.0)
    out = np.where(touched[..., None], ground, image.astype(np.float32))
    if not new:
        return np.rint(out).astype(np.uint8)
    black, white = render(
        [Scene(Background("plain", (v, v, v), (v, v, v)), new) for v in (0, 255)]  # coverage is what they differ by
    ).images.astype(np.float32)
    seen = 1 - (white - black).mean(-1, keepdims=True) / 255
    return np.rint(black + (1 - seen) * out).clip(0, 255).astype(np.uint8)


def _square(item: SceneObject, more_px: float) -> np.ndarray:
    """bool (32, 32): the pixels of the object's bounding square, made larger by `more_px` on each side."""
    y, x = np.mgrid[:FRAME_PX, :FRAME_PX] + 0.5
    half = item.size / 2 + more_px
    return (np.abs(x - item.cx) <= half) & (np.abs(y - item.cy) <= half)


def _ground(image: np.ndarray, scene: Scene) -> np.ndarray:
    """float32 (32, 32, 3): the background as each row shows it beside the objects (backgrounds change by rows)."""
    free = np.ones(image.shape[:2], bool)
    for item in scene.objects:
        free &= ~_square(item, 1.5)
    pixels = image.astype(np.float32)
    whole = np.median(pixels[free], axis=0) if free.any() else np.full(3, 140.0, np.float32)
    rows = np.stack([np.median(pixels[y][free[y]], axis=0) if free[y].sum() >= 4 else whole for y in range(FRAME_PX)])
    return np.repeat(rows[:, None].astype(np.float32), FRAME_PX, axis=1)
