"""Captions with an instruction: "caption [Reflexion] instruction", and a scene that holds after the instruction.

The generator's base training uses them, because the corrector's LoRA never touches the text branch: whatever words a
reflection may use must be known before.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inference.flux.corrector import corrector_text
from microworld.scenes.captions import (
    RELATIONS,
    Caption,
    Clause,
    caption_from_clauses,
    is_reserved,
    place_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.edits import is_clearly_placed, wrong_scene
from microworld.scenes.instructions import Edit, Operation, instruction
from microworld.scenes.world import COLORS, SHAPES, Scene


def sample_instructed_caption(rng: np.random.Generator) -> tuple[str, Scene]:
    """ "caption [Reflexion] instruction" and a scene of which both are true, that is, after the instruction.

    The caption is a training caption. In half of the cases it leaves open what the instruction decides ("a photo of a
    star [Reflexion] Make the star red."); in the others the instruction repeats what it demands, as a corrector meets
    it. One or two sentences; what both together compose is not reserved for benchmarks either.
    """
    if rng.random() < 0.5:
        caption, edits, scene = _restated(rng)
    else:
        caption, edits, scene = _underspecified(rng)
    sentences = [instruction(edit, None if rng.random() < 0.4 else rng) for edit in edits]
    return corrector_text(caption.text, " ".join(sentences)), scene


def _restated(rng: np.random.Generator) -> tuple[Caption, list[Edit], Scene]:
    caption = sample_training_caption(rng)
    scene = sample_scene(rng, caption)
    first, _ = wrong_scene(rng, caption, scene)
    edits = [first]
    if rng.random() < 0.3:
        second, _ = wrong_scene(rng, caption, scene)
        if not _shapes_of(first) & _shapes_of(second):
            edits.append(second)
    return caption, edits, scene


def _shapes_of(edit: Edit) -> set[str | None]:
    return {edit.shape, edit.new_shape, edit.target} - {None}


def _underspecified(rng: np.random.Generator) -> tuple[Caption, list[Edit], Scene]:
    """A caption, instructions that add a demand to it, and a scene that meets all of it."""
    kinds = (_colored_one, _colored_group, _colored_pair, _related, _added, _placed)
    while True:
        caption, edits, demands = kinds[rng.integers(len(kinds))](rng)
        if is_reserved(caption) or any(is_reserved(d) for d in _all_compositions(demands)):
            continue
        scene = sample_scene(rng, demands)
        place = next((e.place for e in edits if e.place), None)
        if place is None or (place_of(scene.objects[0]) == place and is_clearly_placed(scene.objects[0])):
            return caption, edits, scene


def _all_compositions(demands: Caption) -> list[Caption]:
    """The demands with and without their colours: none of these readings may be reserved."""
    plain = tuple(replace(c, color=None) for c in demands.clauses)
    tag = "two_object" if demands.tag == "color_attr" else demands.tag
    return [demands] if tag == "colors" else [demands, caption_from_clauses(tag, plain)]


def _two_shapes(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.permutation(list(SHAPES))[:2].tolist()
    return first, second


def _two_colors(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.permutation(list(COLORS))[:2].tolist()
    return first, second


_Instructed = tuple[Caption, list[Edit], Caption]


def _paint(rng: np.random.Generator, shape: str, color: str, old_color: str) -> Edit:
    """ "Make the star red.", or "Replace the blue star by a red star." as if it had been blue."""
    return Edit(Operation.RECOLOR, shape, old_color if rng.random() < 0.4 else None, new_color=color)


def _colored_one(rng: np.random.Generator) -> _Instructed:
    (shape, _), (color, old) = _two_shapes(rng), _two_colors(rng)
    demands = caption_from_clauses("colors", (Clause(shape, 1, color),))
    return caption_from_clauses("single_object", (Clause(shape),)), [_paint(rng, shape, color, old)], demands


def _colored_group(rng: np.random.Generator) -> _Instructed:
    (shape, _), (color, _) = _two_shapes(rng), _two_colors(rng)
    count = int(rng.integers(2, 5))
    said = count if rng.random() < 0.3 else None
    edit = Edit(Operation.RECOLOR, shape, None, said, new_color=color)
    demands = caption_from_clauses("colors", (Clause(shape, count, color),))
    return caption_from_clauses("counting", (Clause(shape, count),)), [edit], demands


def _colored_pair(rng: np.random.Generator) -> _Instructed:
    (first, second), (color, other) = _two_shapes(rng), _two_colors(rng)
    caption = caption_from_clauses("two_object", (Clause(first), Clause(second)))
    demands = caption_from_clauses("color_attr", (Clause(first, 1, color), Clause(second, 1, other)))
    edits = [_paint(rng, first, color, other), _paint(rng, second, other, color)]
    return caption, edits if rng.random() < 0.7 else edits[::-1], demands


def _related(rng: np.random.Generator) -> _Instructed:
    (first, second), (color, old) = _two_shapes(rng), _two_colors(rng)
    relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
    is_colored = rng.random() < 0.3
    named = [Clause(first), Clause(second)]
    caption = caption_from_clauses("two_object", tuple(named if rng.random() < 0.5 else named[::-1]))
    edits = [Edit(Operation.MOVE, first, relation=relation, target=second)]
    if is_colored:
        edits.append(_paint(rng, first, color, old))
    subject = Clause(first, 1, color if is_colored else None, (relation, 0))
    return caption, edits, caption_from_clauses("position", (Clause(second), subject))


def _added(rng: np.random.Generator) -> _Instructed:
    """ "a photo of a star [Reflexion] Add a ring (to the left of the star)." """
    (first, second), (color, other) = _two_shapes(rng), _two_colors(rng)
    form = rng.integers(3)
    if form == 0:
        caption = caption_from_clauses("single_object", (Clause(first),))
        demands = caption_from_clauses("two_object", (Clause(first), Clause(second)))
        return caption, [Edit(Operation.ADD, second)], demands
    if form == 1:
        caption = caption_from_clauses("colors", (Clause(first, 1, color),))
        demands = caption_from_clauses("color_attr", (Clause(first, 1, color), Clause(second, 1, other)))
        return caption, [Edit(Operation.ADD, second, other)], demands
    relation = list(RELATIONS)[rng.integers(len(RELATIONS))]
    caption = caption_from_clauses("single_object", (Clause(first),))
    demands = caption_from_clauses("position", (Clause(first), Clause(second, relation=(relation, 0))))
    return caption, [Edit(Operation.ADD, second, relation=relation, target=first)], demands


def _placed(rng: np.random.Generator) -> _Instructed:
    (shape, _), (color, old) = _two_shapes(rng), _two_colors(rng)
    plain = caption_from_clauses("single_object", (Clause(shape),))
    colored = caption_from_clauses("colors", (Clause(shape, 1, color),))
    # The cell is drawn as scenes draw it, corners less often than the middle: few tries are needed.
    place = place_of(sample_scene(rng, plain).objects[0])
    move = Edit(Operation.MOVE, shape, place=place)
    form = rng.integers(3)
    if form == 0:
        return plain, [move], plain
    if form == 1:
        return colored, [move], colored
    return plain, [_paint(rng, shape, color, old), move], colored
