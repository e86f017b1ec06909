"""Questions and answers about scenes, from a scene's truth by plain rules: teaching material for the micro VLM.

Counts and captions are meant exactly: "Are there two rings?" is false of three, and an image shows a prompt if it
shows nothing besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from microworld.scenes.captions import (
    COUNT_WORDS,
    PLACES,
    RELATIONS,
    Caption,
    Clause,
    bounding_square,
    caption_from_clauses,
    class_plural,
    is_true_of,
    place_of,
    relations_between,
)
from microworld.scenes.edits import stands_clearly
from microworld.scenes.world import COLORS, SHAPES, Scene, SceneObject

YES_NO_SHARE = 0.6
NUMBERS = {0: "zero", **COUNT_WORDS}


@dataclass(frozen=True)
class Question:
    """A question about an image and its answer, one short sentence ("Yes.", "Red.", "A blue ring.")."""

    text: str
    answer: str


def sample_questions(rng: np.random.Generator, scene: Scene, number: int) -> tuple[Question, ...]:
    """`number` questions: yes/no ones with as many yes as no on average, and what/how many ones.

    A scene without objects is asked only what can be asked of it.
    """
    found: list[Question] = []
    while len(found) < number:
        if rng.random() < YES_NO_SHARE:
            wanted = bool(rng.random() < 0.5)
            text = _YES_NO[rng.integers(len(_YES_NO))](rng, scene, wanted)
            question = Question(text, "Yes." if wanted else "No.") if text else None
        else:
            question = _OPEN[rng.integers(len(_OPEN))](rng, scene)
        if question is None and not scene.objects:
            question = Question("How many objects are there?", "Zero.")
        if question is not None:
            found.append(question)
    return tuple(found)


def counted(name: str, count: int = 1) -> str:
    """ "a red star", "two red stars"."""
    if count == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return f"{NUMBERS[count]} {class_plural(name)}"


def _pick(rng: np.random.Generator, names: list[str]) -> str:
    return names[rng.integers(len(names))]


def _any_object(rng: np.random.Generator, scene: Scene) -> SceneObject | None:
    return scene.objects[rng.integers(len(scene.objects))] if scene.objects else None


def _is_there(rng: np.random.Generator, scene: Scene, wanted: bool) -> str | None:
    """ "Is there a red star?"; the near-miss has another colour or another shape than one that is there."""
    if (item := _any_object(rng, scene)) is None:
        return None
    color, shape = item.color, item.shape
    if not wanted:
        if rng.random() < 0.5:
            color = _pick(rng, list(COLORS))
        else:
            shape = _pick(rng, list(SHAPES))
        if any((o.color, o.shape) == (color, shape) for o in scene.objects):
            return None
    return f"Is there {counted(f'{color} {shape}')}?"


def _is_placed(rng: np.random.Generator, scene: Scene, wanted: bool) -> str | None:
    """ "Is the star left of the ring?" of two objects of which each is the only one of its shape."""
    pair = _two_unique(rng, scene)
    if pair is None:
        return None
    first, second = pair
    held = relations_between(bounding_square(first), bounding_square(second))
    choices = [
        name
        for name in RELATIONS
        if (stands_clearly(first, second, name) if wanted else name not in held)
        and (wanted or RELATIONS[name] in held or rng.random() < 0.3)
    ]
    return f"Is the {first.shape} {_pick(rng, choices)} the {second.shape}?" if choices else None


def _two_unique(rng: np.random.Generator, scene: Scene) -> tuple[SceneObject, SceneObject] | None:
    counts = Counter(o.shape for o in scene.objects)
    unique = [o for o in scene.objects if counts[o.shape] == 1]
    if len(unique) < 2:
        return None
    first, second = rng.permutation(len(unique))[:2].tolist()
    return unique[first], unique[second]


def _are_there(rng: np.random.Generator, scene: Scene, wanted: bool) -> str | None:
    """ "Are there three rings?"; the near-miss is one more or one less."""
    if (item := _any_object(rng, scene)) is None:
        return None
    count = sum(o.shape == item.shape for o in scene.objects)
    asked = count if wanted else count + int(rng.choice([-1, 1]))
    if asked not in COUNT_WORDS:
        return None
    return f"Are there {counted(item.shape, asked)}?" if asked > 1 else f"Is there exactly one {item.shape}?"


def _does_it_show(rng: np.random.Generator, scene: Scene, wanted: bool) -> str | None:
    """ "Does the image show a photo of a red star?"; the near-miss differs by one word."""
    caption = caption_of(rng, scene)
    if caption is None:
        return None
    if not wanted:
        caption = near_miss(rng, caption)
        if is_true_of(caption, scene):
            return None
    return f"Does the image show {caption.text}?"


def caption_of(rng: np.random.Generator, scene: Scene) -> Caption | None:
    """A caption of one of the six tags that is true of the scene; None where the tags have none for it."""
    objects = scene.objects
    shapes, colors = {o.shape for o in objects}, {o.color for o in objects}
    options: list[Caption] = []
    if len(shapes) == 1:
        shape, count = objects[0].shape, len(objects)
        options.append(caption_from_clauses("single_object" if count == 1 else "counting", (Clause(shape, count),)))
        if len(colors) == 1:
            options.append(caption_from_clauses("colors", (Clause(shape, count, objects[0].color),)))
    elif len(objects) == 2:
        first, second = rng.permutation(2).tolist()
        a, b = objects[first], objects[second]
        options.append(caption_from_clauses("two_object", (Clause(a.shape), Clause(b.shape))))
        if len(colors) == 2:
            both = (Clause(a.shape, 1, a.color), Clause(b.shape, 1, b.color))
            options.append(caption_from_clauses("color_attr", both))
        options += [
            caption_from_clauses("position", (Clause(b.shape), Clause(a.shape, relation=(name, 0))))
            for name in RELATIONS
            if stands_clearly(a, b, name)
        ]
    return options[rng.integers(len(options))] if options else None


def near_miss(rng: np.random.Generator, caption: Caption) -> Caption:
    """The caption with one shape, colour, count or relation changed, or its two colours swapped (never the same)."""
    clauses = list(caption.clauses)
    index = int(rng.integers(len(clauses)))
    clause = clauses[index]
    related = next((i for i, c in enumerate(clauses) if c.relation), None)
    if caption.tag == "color_attr" and rng.random() < 0.4:
        a, b = clauses
        clauses = [replace(a, color=b.color), replace(b, color=a.color)]
    elif related is not None and rng.random() < 0.7:
        name, target = clauses[related].relation or ("", 0)
        clauses[related] = replace(clauses[related], relation=(RELATIONS[name], target))
    elif caption.tag == "counting" and rng.random() < 0.7:
        count = _other(rng, [2, 3, 4], clause.count)
        clauses[index] = replace(clause, count=count)
    elif clause.color and rng.random() < 0.7:
        taken = [c.color for c in clauses if c.color]
        clauses[index] = replace(clause, color=_pick(rng, [c for c in COLORS if c not in taken]))
    else:
        taken = [c.shape for c in clauses]
        clauses[index] = replace(clause, shape=_pick(rng, [s for s in SHAPES if s not in taken]))
    return caption_from_clauses(caption.tag, tuple(clauses))


def _other(rng: np.random.Generator, values: list[int], current: int) -> int:
    others = [v for v in values if v != current]
    return others[rng.integers(len(others))]


def _what_color(rng: np.random.Generator, scene: Scene) -> Question | None:
    item = _any_object(rng, scene)
    if item is None or sum(o.shape == item.shape for o in scene.objects) > 1:
        return None
    return Question(f"What color is the {item.shape}?", f"{item.color.capitalize()}.")


def _what_shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    item = _any_object(rng, scene)
    if item is None or sum(o.color == item.color for o in scene.objects) > 1:
        return None
    return Question(f"What shape is {item.color}?", f"{counted(item.shape).capitalize()}.")


def _how_many(rng: np.random.Generator, scene: Scene) -> Question | None:
    item = _any_object(rng, scene)
    if item is None or rng.random() < 0.2:
        return Question("How many objects are there?", f"{NUMBERS[len(scene.objects)].capitalize()}.")
    shape = item.shape if rng.random() < 0.85 else _pick(rng, list(SHAPES))
    count = sum(o.shape == shape for o in scene.objects)
    return Question(f"How many {class_plural(shape)} are there?", f"{NUMBERS[count].capitalize()}.")


def _what_is_there(rng: np.random.Generator, scene: Scene) -> Question | None:
    """ "What is left of the star?" where exactly one object is, and clearly."""
    item = _any_object(rng, scene)
    if item is None or sum(o.shape == item.shape for o in scene.objects) > 1:
        return None
    relation = _pick(rng, list(RELATIONS))
    square = bounding_square(item)
    there = [o for o in scene.objects if o is not item and relation in relations_between(bounding_square(o), square)]
    if len(there) != 1 or not stands_clearly(there[0], item, relation):
        return None
    name = f"{there[0].color} {there[0].shape}"
    return Question(f"What is {relation} the {item.shape}?", f"{counted(name).capitalize()}.")


def _what_is_in(rng: np.random.Generator, scene: Scene) -> Question | None:
    """ "What is in the upper left?" where exactly one object is."""
    item = _any_object(rng, scene)
    if item is None:
        return None
    place = place_of(item)
    if sum(place_of(o) == place for o in scene.objects) > 1:
        return None
    return Question(f"What is {PLACES[place]}?", f"{counted(f'{item.color} {item.shape}').capitalize()}.")


_YES_NO: tuple[Callable[[np.random.Generator, Scene, bool], str | None], ...] = (
    _is_there,
    _is_placed,
    _are_there,
    _does_it_show,
)
_OPEN: tuple[Callable[[np.random.Generator, Scene], Question | None], ...] = (
    _what_color,
    _what_shape,
    _how_many,
    _what_is_there,
    _what_is_in,
)
