"""Questions and answers about scenes, a verifier's judgement of a prompt, comparisons of two images, refined prompts.

All of it is computed from a scene's truth by plain rules, as teaching material for the micro VLM. Counts and captions
are meant exactly: "Are there two rings?" is false of three, and an image shows a prompt if it shows nothing besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inference.micro.captions import (
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
from inference.micro.edits import Edit, Operation, instruction, name_edit, stands_clearly
from inference.micro.world import COLORS, FRAME_PX, SHAPES, Scene, SceneObject

YES_NO_SHARE = 0.6
_NUMBERS = {0: "zero", **COUNT_WORDS}


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


def _counted(name: str, count: int = 1) -> str:
    if count == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    return f"{_NUMBERS[count]} {class_plural(name)}"


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
    return f"Is there {_counted(f'{color} {shape}')}?"


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
    return f"Are there {_counted(item.shape, asked)}?" if asked > 1 else f"Is there exactly one {item.shape}?"


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
    return Question(f"What shape is {item.color}?", f"{_counted(item.shape).capitalize()}.")


def _how_many(rng: np.random.Generator, scene: Scene) -> Question | None:
    item = _any_object(rng, scene)
    if item is None or rng.random() < 0.2:
        return Question("How many objects are there?", f"{_NUMBERS[len(scene.objects)].capitalize()}.")
    shape = item.shape if rng.random() < 0.85 else _pick(rng, list(SHAPES))
    count = sum(o.shape == shape for o in scene.objects)
    return Question(f"How many {class_plural(shape)} are there?", f"{_NUMBERS[count].capitalize()}.")


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
    return Question(f"What is {relation} the {item.shape}?", f"{_counted(name).capitalize()}.")


def _what_is_in(rng: np.random.Generator, scene: Scene) -> Question | None:
    """ "What is in the upper left?" where exactly one object is."""
    item = _any_object(rng, scene)
    if item is None:
        return None
    place = place_of(item)
    if sum(place_of(o) == place for o in scene.objects) > 1:
        return None
    return Question(f"What is {PLACES[place]}?", f"{_counted(f'{item.color} {item.shape}').capitalize()}.")


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


# --- What is wrong with a scene --------------------------------------------------------------------------------------


def corrections(caption: Caption, scene: Scene) -> tuple[Edit, ...]:
    """Edits after which the caption would hold, most basic first; () if it does. For scenes wrong in any way.

    A surplus object is reshaped where another is missing; colours are corrected before objects are added.
    """
    free = list(scene.objects)
    wanted: list[Clause] = [replace(c, count=1, relation=None) for c in caption.clauses for _ in range(c.count)]
    for clause in list(wanted):
        match = [o for o in free if o.shape == clause.shape and clause.color in (None, o.color)]
        if match:
            free.remove(match[0])
            wanted.remove(clause)
    edits: list[Edit] = []
    for clause in list(wanted):
        same_shape = [o for o in free if o.shape == clause.shape]
        if same_shape:
            item = same_shape[0]
            alike = sum((o.shape, o.color) == (item.shape, item.color) for o in scene.objects)
            edits.append(Edit(Operation.RECOLOR, item.shape, item.color, new_color=clause.color, one_of=alike > 1))
            free.remove(item)
            wanted.remove(clause)
    for clause, item in zip(list(wanted), list(free), strict=False):
        is_unique = sum(o.shape == item.shape for o in scene.objects) == 1
        color = clause.color if clause.color == item.color else None
        edits.append(Edit(Operation.RESHAPE, item.shape, color, new_shape=clause.shape, one_of=not is_unique))
        if clause.color and color is None:
            edits.append(Edit(Operation.RECOLOR, clause.shape, None, new_color=clause.color))
        free.remove(item)
        wanted.remove(clause)
    edits += _added(caption, scene, wanted) + _removed(caption, free)
    return _grouped(edits, scene) or _moved(caption, scene)


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


def _moved(caption: Caption, scene: Scene) -> tuple[Edit, ...]:
    """The move that a complete scene still needs."""
    if is_true_of(caption, scene):
        return ()
    subject = next(c for c in caption.clauses if c.relation)
    assert subject.relation is not None
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
    return f"{_counted(f'{first.color} {first.shape}')} {relation} {_counted(f'{second.color} {second.shape}')}"


def inventory(scene: Scene) -> str:
    """ "two red stars and a blue ring"; "nothing" for an empty scene."""
    counts = Counter(f"{o.color} {o.shape}" for o in scene.objects)
    parts = [_counted(name, number) for name, number in counts.items()]
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
        names = [_counted(c.shape, c.count) for c in caption.clauses]
        exactly = f"exactly {_NUMBERS[total]} {'object' if total == 1 else 'objects'}"
        hints.append(f"{exactly}, {' and '.join(names)}" if rng.random() < 0.5 else f"{exactly}, clearly visible")
    return ", ".join([caption.text, *hints])


# --- The verifier's judgement ----------------------------------------------------------------------------------------

CRITERIA: dict[str, tuple[str, str, str]] = {
    "single_object": ("object_completeness", "detectability", "occlusion_handling"),
    "two_object": ("separation_clarity", "individual_completeness", "relationship_accuracy"),
    "counting": ("count_accuracy", "object_uniformity", "spatial_legibility"),
    "colors": ("color_fidelity", "contrast_effectiveness", "multi_object_consistency"),
    "position": ("position_accuracy", "occlusion_management", "perspective_consistency"),
    "color_attr": ("attribute_binding", "contrast_effectiveness", "material_consistency"),
}
FULL_GAP_PX, FULL_CONTRAST = 4.0, 160.0  # a gap, and a distance in RGB, that earn all ten points


def judge_prompt(caption: Caption, scene: Scene) -> dict[str, dict[str, Any]]:
    """A verifier's JSON object: the three criteria of the caption's tag and overall_score, each with a score in 0..10
    and an explanation.

    Scores: completeness and relationship_accuracy, share of the objects asked for that are there; count_accuracy, how
    far the number is off; color_fidelity, attribute_binding and consistencies, share of the objects of a clause's shape
    with its colour; position_accuracy, 10 or 0; occlusion and separation, the smallest gap (4 px are 10 points);
    detectability and contrast, the smallest RGB distance to the background behind the object (160 are 10 points);
    perspective_consistency and object_uniformity, smallest by largest size. Criteria of missing objects are 0.
    overall_score is the mean of the three, at least 8 if the caption is true and at most 4 if it is false.
    """
    judged = {name: _criterion(name, caption, scene) for name in CRITERIA[caption.tag]}
    mean = round(float(np.mean([score for score, _ in judged.values()])))
    if is_true_of(caption, scene):
        judged["overall_score"] = max(mean, 8), "The image matches the prompt."
    else:
        todo = " ".join(instruction(e) for e in corrections(caption, scene))
        judged["overall_score"] = min(mean, 4), f"The image does not match the prompt. {todo}"
    return {name: {"score": score, "explanation": why} for name, (score, why) in judged.items()}


def _criterion(name: str, caption: Caption, scene: Scene) -> tuple[int, str]:
    there = f"There {'is' if len(scene.objects) < 2 else 'are'} {inventory(scene)}."
    asked = [o for o in scene.objects if any(c.shape == o.shape for c in caption.clauses)]
    if not asked:
        return 0, there
    match name:
        case "object_completeness" | "individual_completeness" | "relationship_accuracy":
            return _ten(_share_present(caption, scene)), there
        case "count_accuracy":
            wanted = sum(c.count for c in caption.clauses)
            off = abs(len(asked) - wanted) / wanted
            return _ten(1 - off), f"Expected {_NUMBERS[wanted]}, found {_NUMBERS[len(asked)]}."
        case "color_fidelity" | "attribute_binding" | "multi_object_consistency" | "material_consistency":
            return _ten(_share_colored(caption, asked)), there
        case "position_accuracy":
            moves = _moved(caption, scene) if _share_present(caption, scene) == 1 else ()
            if moves:
                return 0, instruction(moves[0])
            holds = _share_present(caption, scene) == 1
            return (10, "The position is correct.") if holds else (0, there)
        case "occlusion_handling" | "occlusion_management" | "separation_clarity" | "spatial_legibility":
            share = _smallest_gap(scene) / FULL_GAP_PX
            return _ten(share), "The objects are separate." if share > 0 else "The objects are overlapping."
        case "object_uniformity" | "perspective_consistency":
            sizes = [o.size for o in asked]
            even = min(sizes) / max(sizes)
            return _ten(even), f"The objects have {'the same' if even > 0.8 else 'different'} size."
        case _:
            contrast = min(_contrast(scene, o) for o in asked) / FULL_CONTRAST
            return _ten(contrast), f"The contrast to the background is {'clear' if contrast > 0.6 else 'low'}."


def _ten(share: float) -> int:
    return round(10 * min(max(share, 0.0), 1.0))


def _share_present(caption: Caption, scene: Scene) -> float:
    found = Counter(o.shape for o in scene.objects)
    return float(np.mean([min(found[c.shape], c.count) / c.count for c in caption.clauses]))


def _share_colored(caption: Caption, asked: list[SceneObject]) -> float:
    shares = []
    for clause in caption.clauses:
        same = [o for o in asked if o.shape == clause.shape]
        shares.append(float(np.mean([clause.color in (None, o.color) for o in same])) if same else 0.0)
    return float(np.mean(shares))


def _smallest_gap(scene: Scene) -> float:
    """px between bounding squares, and to the frame's edge plus 4 px (an object at the edge is not yet cut)."""
    gaps = [FULL_GAP_PX]
    for i, a in enumerate(scene.objects):
        gaps.append(FULL_GAP_PX + min(a.cx, a.cy, FRAME_PX - a.cx, FRAME_PX - a.cy) - a.size / 2)
        gaps += [max(abs(a.cx - b.cx), abs(a.cy - b.cy)) - (a.size + b.size) / 2 for b in scene.objects[:i]]
    return min(gaps)


def _contrast(scene: Scene, item: SceneObject) -> float:
    """RGB distance between the object's colour and the background at its centre."""
    background = scene.background
    below = {"plain": 0.0, "gradient": item.cy / FRAME_PX}.get(background.kind, float(item.cy > background.horizon_px))
    behind = np.array(background.top) * (1 - below) + np.array(background.bottom) * below
    return float(np.linalg.norm(np.array(COLORS[item.color]) - behind))
