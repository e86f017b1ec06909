"""Long, detailed captions of the micro world and short ones that leave things out.

A long caption names every object with colour, size (where it is clear), outline and place, and the background. Every
clause of it speaks of one object, so that what a text says can be read back (`mentions`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from microworld.scenes.captions import (
    COUNT_WORDS,
    PLACES,
    Caption,
    Clause,
    caption_from_clauses,
    class_plural,
    is_reserved,
    place_of,
)
from microworld.scenes.edits import is_clearly_placed
from microworld.scenes.world import (
    COLORS,
    SHAPES,
    Background,
    Rgb,
    Scene,
    SceneObject,
    place_objects,
    random_background,
)

LONG = "long"  # the tag of captions that are none of GenEval's
MAX_TOKENS = 47  # words and punctuation marks; with the end token 48, T5's longest bucket
SMALL_BELOW_PX, LARGE_FROM_PX = 9.5, 12.5
DARK_BELOW, LIGHT_FROM = 125.0, 155.0  # mean of the three channels
CLEAR_STEP = 10.0  # two tones of a background differ visibly from here on
HIGH_ABOVE_PX, LOW_BELOW_PX = 13.0, 20.0  # a horizon there is high or low
OUTLINED_SHARE, VARIED_BACKGROUNDS = 0.2, 0.6
OUTLINED_SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond")  # open inside at these strokes
STROKES_PX = (1.0, 1.3)


def count_tokens(text: str) -> int:
    """Words, digits and punctuation marks, as the micro tokenizers split (the end token not counted)."""
    return len(re.findall(r"\[reflexion\]|[a-z]+|[0-9]|[^\sa-z0-9]", text.lower()))


def size_word(item: SceneObject) -> str | None:
    """ "small" or "large" where nobody would doubt it, else None."""
    return "small" if item.size < SMALL_BELOW_PX else "large" if item.size >= LARGE_FROM_PX else None


def describe_background(background: Background, rng: np.random.Generator | None = None) -> str:
    """A noun phrase, e.g. "a plain dark grey background" or "a low horizon, lighter above and darker below".

    Without `rng` the shortest: "a plain grey background", "a gradient background", "a background with a horizon".
    """
    top, bottom = background.top, background.bottom
    if background.kind == "plain":
        tone = _tone_word(top) if rng is not None else "grey"
        return f"a plain {tone} background"
    short = "a gradient background" if background.kind == "gradient" else "a background with a horizon"
    step = float(np.mean(top) - np.mean(bottom))
    if rng is None or abs(step) < CLEAR_STEP:
        return short
    above, below = ("lighter", "darker") if step > 0 else ("darker", "lighter")
    if background.kind == "gradient":
        forms = [f"a gradient background, {above} above than below", f"a background that fades from {above} to {below}"]
    else:
        height = background.horizon_px
        level = " high" if height < HIGH_ABOVE_PX else " low" if height > LOW_BELOW_PX else ""
        forms = [
            f"a background with a{level} horizon, {above} above and {below} below",
            f"a {above} sky over a {below} ground",
            f"a{level} horizon with a {above} sky",
        ]
    return [short, *forms][rng.integers(len(forms) + 1)]


def _tone_word(tone: Rgb) -> str:
    mean = float(np.mean(tone))
    return "dark grey" if mean < DARK_BELOW else "light grey" if mean >= LIGHT_FROM else "grey"


def name_object(item: SceneObject, rng: np.random.Generator | None = None) -> str:
    """ "a small outlined red star": everything but the place."""
    words = [w for w in (size_word(item), item.color, item.shape) if w]
    if item.stroke and rng is not None and rng.random() < 0.4:
        return f"the outline of {_with_article(words)}"
    if item.stroke:
        words.insert(len(words) - 2, "outlined")
    return _with_article(words)


def _with_article(words: list[str]) -> str:
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """All of the scene in at most `MAX_TOKENS` words and marks, in one of several forms; true by construction."""
    for _ in range(12):
        text = _compose(scene, rng)
        if count_tokens(text) <= MAX_TOKENS:
            return text
    parts = [f"{name_object(o)} {PLACES[place_of(o)]}" for o in scene.objects]
    return _sentence(f"{_listed(parts)} on {describe_background(scene.background)}")


def _compose(scene: Scene, rng: np.random.Generator) -> str:
    order = rng.permutation(len(scene.objects)).tolist()
    items = [(name_object(scene.objects[i], rng), PLACES[place_of(scene.objects[i])]) for i in order]
    background = describe_background(scene.background, rng)
    if not items:
        return _sentence(background)
    form = rng.integers(4)
    if form == 0:
        listed = _listed([f"{name} {place}" for name, place in items])
        opening = ("a photo of ", "a picture of ", "the image shows ", "")[rng.integers(4)]
        return _sentence(f"{opening}{listed} on {background}")
    if form == 1:
        listed = _listed([f"{name} {place}" for name, place in items])
        return _sentence(f"on {background} there {'is' if len(items) == 1 else 'are'} {listed}")
    verbs = ("is", "stands", "sits", "appears")
    verb = verbs[rng.integers(len(verbs))]
    if form == 2:
        sentences = [_sentence(f"{name} {verb} {place}") for name, place in items]
    else:
        sentences = [_sentence(f"{place} there is {name}") for name, place in items]
    told = _sentence(f"{('behind is', 'it has')[rng.integers(2)]} {background}")
    return " ".join([*sentences, told] if rng.random() < 0.7 else [told, *sentences])


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def condense(scene: Scene, rng: np.random.Generator) -> str:
    """A short caption of the same scene, still true: every object, but few attributes, hardly a place, no background.

    Objects of one shape whose colours are left out (or equal) are counted: "a photo of two stars and a red ring".
    """
    keeps_colors = rng.random() < 0.6
    named: Counter[tuple[str | None, str]] = Counter()
    for item in scene.objects:
        named[item.color if keeps_colors and rng.random() < 0.8 else None, item.shape] += 1
    if not named:
        return "a photo of a background"
    only = scene.objects[0]
    parts = []
    for (color, shape), count in named.items():
        words = [w for w in (color, shape if count == 1 else class_plural(shape)) if w]
        parts.append(_with_article(words) if count == 1 else " ".join([COUNT_WORDS[count], *words]))
    place = f" {PLACES[place_of(only)]}" if len(scene.objects) == 1 and rng.random() < 0.3 else ""
    return f"a photo of {_listed(parts)}{place}"


def sample_long_caption(rng: np.random.Generator) -> tuple[str, Scene]:
    """A long caption and its scene: one to three clearly placed objects, richer backgrounds, a few outlines.

    One or two objects whose colours or shapes are a reserved composition are not drawn.
    """
    shapes, colors = list(SHAPES), list(COLORS)
    while True:
        squares = place_objects(rng, int(rng.integers(1, 4)))
        objects = tuple(
            SceneObject(shapes[s], colors[c], *(float(v) for v in square))
            for s, c, square in zip(
                rng.integers(len(shapes), size=3), rng.integers(len(colors), size=3), squares, strict=False
            )
        )
        if all(is_clearly_placed(o) for o in objects) and not composes_reserved(objects):
            break
    if rng.random() < OUTLINED_SHARE:
        index = int(rng.integers(len(objects)))
        if objects[index].shape in OUTLINED_SHAPES:
            outlined = replace(objects[index], stroke=float(rng.uniform(*STROKES_PX)))
            objects = (*objects[:index], outlined, *objects[index + 1 :])
    scene = Scene(random_background(rng, VARIED_BACKGROUNDS), objects)
    return describe(scene, rng), scene


def composes_reserved(objects: tuple[SceneObject, ...]) -> bool:
    """Whether one object's colour, or two objects' shapes or colours, are kept for benchmarks."""
    if len(objects) == 1:
        return is_reserved(caption_from_clauses("colors", (Clause(objects[0].shape, 1, objects[0].color),)))
    if len(objects) != 2 or objects[0].shape == objects[1].shape:
        return False
    plain, colored = (
        tuple(Clause(o.shape, 1, o.color if with_color else None) for o in objects) for with_color in (False, True)
    )
    return is_reserved(caption_from_clauses("two_object", plain)) or is_reserved(
        caption_from_clauses("color_attr", colored)
    )


# --- Reading captions back -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mention:
    """One object as a text names it: its shape and all that is said of it ("red", "small", "outlined", "top")."""

    shape: str
    attributes: frozenset[str]


_NOUNS = {**{s: s for s in SHAPES}, **{class_plural(s): s for s in SHAPES}}
_NUMBERS = {word: number for number, word in COUNT_WORDS.items()}
_ADJECTIVES = {*COLORS, "small", "large", "outlined", "filled", "dark", "light"}
_PLACE = re.compile("|".join(sorted(PLACES.values(), key=len, reverse=True)))
_PLACE_NAMES = {phrase: name for name, phrase in PLACES.items()}


def mentions(text: str) -> tuple[Mention, ...]:
    """The objects that a caption names, one each ("two red stars" are two). Clauses end at ".,:;", "and", "with"."""
    found: list[Mention] = []
    for clause in re.split(r"[.,:;]|\band\b|\bwith\b", text.lower()):
        words = re.findall(r"[a-z]+", clause)
        nouns = [i for i, word in enumerate(words) if word in _NOUNS]
        place = _PLACE.search(" ".join(words)) if len(nouns) == 1 else None
        for noun in nouns:
            first = noun
            while first > 0 and words[first - 1] in _ADJECTIVES:
                first -= 1
            attributes = set(words[first:noun])
            if "outline" in words[:noun]:
                attributes.add("outlined")
            if place:
                attributes.add(_PLACE_NAMES[place.group()])
            count = _NUMBERS.get(words[first - 1], 1) if first else 1
            found += [Mention(_NOUNS[words[noun]], frozenset(attributes))] * count
    return tuple(found)


def caption_of_text(text: str) -> Caption:
    """The objects that a long caption names, with their colours; places and sizes are left out. Its tag is `LONG`."""
    counted: Counter[tuple[str, str | None]] = Counter()
    for mention in mentions(text):
        counted[mention.shape, next((a for a in mention.attributes if a in COLORS), None)] += 1
    return Caption(LONG, text, tuple(Clause(shape, number, color) for (shape, color), number in counted.items()))
