"""Prompts of the micro world in many wordings, each with what it requires: what a reader of prompts learns from.

GenEval's sentences, long captions, and prompts of up to four groups with counts, colours and relations, listed, told in
sentences or asked for ("Draw ..."), which the grammar does not read. A prompt with a word that the world does not know
requires nothing that could be checked here. Places, sizes, outlines and backgrounds are read over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from microworld.scenes.captions import (
    COLORED_RELATION,
    COUNT_WORDS,
    RELATIONS,
    TRAINING_WEIGHTS,
    Clause,
    caption_from_clauses,
    class_plural,
    is_reserved,
    sample_caption,
)
from microworld.scenes.compositions import is_reserved_composition
from microworld.scenes.long_captions import caption_of_text, sample_long_caption
from microworld.scenes.questions import counted
from microworld.scenes.unknown_words import spoil, unknown_prompt
from microworld.scenes.world import COLORS, SHAPES
from schemas.records import ObjectClause, PromptRecord

FORMS: dict[str, float] = {
    "geneval": 0.14,
    "list": 0.26,
    "sentences": 0.16,
    "shared": 0.06,
    "long": 0.1,
    "absent": 0.04,
    "spoilt": 0.15,
    "unknown": 0.09,
}
"""Form of a prompt -> its share."""
NUMBER_WORDS = {**COUNT_WORDS, 5: "five", 6: "six", 7: "seven", 8: "eight"}
_T = TypeVar("_T")
NOTHING: tuple[Clause, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A prompt and what it requires: clauses, of which each refers to earlier ones alone, and shapes that must not be
    there. form: a key of `FORMS`."""

    form: str
    text: str
    clauses: tuple[Clause, ...] = NOTHING
    absent: tuple[str, ...] = ()


def answer_of(reading: Reading) -> str:
    """The JSON that a reader answers: `{"include": [...], "questions": [...]}`, include in GenEval's form, without
    what is the default. Names have a space before them (`" star"`), which whoever reads an answer takes off: with it
    they are the tokens of the prompt, to be copied, and without it they are spelled anew."""
    include: list[dict[str, Any]] = []
    for clause in reading.clauses:
        said: dict[str, Any] = {"class": f" {clause.shape}"}
        if clause.count != 1:
            said["count"] = clause.count
        if clause.color is not None:
            said["color"] = f" {clause.color}"
        if clause.relation is not None:
            said["position"] = [f" {clause.relation[0]}", clause.relation[1]]
        include.append(said)
    questions = [{"question": f"Is there {counted(shape)}?", "answer": "No"} for shape in reading.absent]
    return json.dumps({"include": include, "questions": questions})


def sample_reading(
    rng: np.random.Generator, reserved: bool | None = False, forms: Mapping[str, float] = FORMS
) -> Reading:
    """A prompt of a form drawn by `forms`. reserved: whether its composition is one of those that are kept for
    benchmarks and evaluation; None: either."""
    names, shares = list(forms), np.array(list(forms.values()))
    form = names[rng.choice(len(names), p=shares / shares.sum())]
    while True:
        reading = _MAKERS[form](rng)
        if reserved is None or not reading.clauses or form == "long" or is_kept(reading.clauses) == reserved:
            return replace(reading, form=form)


def is_kept(clauses: Sequence[Clause]) -> bool:
    """Whether a benchmark may ask for them: reserved as captions of one or two objects are, or as sets of objects."""
    several = len(clauses) > 1
    if several and is_reserved_composition(_record(clauses)):
        return True
    if len(clauses) > 2 or (not several and clauses[0].count > 1):
        return False
    colored = all(clause.color for clause in clauses)
    if not several:
        tag = "colors" if colored else "single_object"
    else:
        tag = "position" if any(c.relation for c in clauses) else "color_attr" if colored else "two_object"
    return is_reserved(caption_from_clauses(tag, tuple(replace(c, count=1) for c in clauses)))


def _record(clauses: Sequence[Clause]) -> PromptRecord:
    include = tuple(ObjectClause(c.shape, c.count, c.color, *(c.relation or (None, None))) for c in clauses)
    return PromptRecord("prompt", "", "rule", None, include)


def _spelled(clauses: Sequence[Clause], index: int) -> str:
    clause = clauses[index]
    own = f"{clause.count} {clause.color or ''} {clause.shape}"
    if clause.relation is None:
        return own
    return f"{own} {clause.relation[0]} ({_spelled(clauses, clause.relation[1])})"


def same_requirements(first: Sequence[Clause], second: Sequence[Clause]) -> bool:
    """Whether two lists of clauses ask for the same, in whatever order they stand."""
    return sorted(_spelled(first, i) for i in range(len(first))) == sorted(
        _spelled(second, i) for i in range(len(second))
    )


# --- What is asked for -----------------------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]


def _some_count(rng: np.random.Generator) -> int:
    draw = rng.random()
    return 1 if draw < 0.6 else int(rng.integers(2, 5)) if draw < 0.96 else int(rng.integers(5, 9))


def sample_groups(rng: np.random.Generator) -> list[Clause]:
    """One to four groups, in the order in which a text names them, without relations. Two of one shape have two
    colours."""
    number = int(rng.choice([1, 2, 3, 4], p=[0.12, 0.33, 0.33, 0.22]))
    shapes = rng.permutation(list(SHAPES))[:number].tolist()
    colors = rng.permutation(list(COLORS))[:number].tolist()
    share = _pick(rng, (0.0, 0.5, 1.0, 1.0))
    groups = [
        Clause(shape, _some_count(rng), color if rng.random() < share else None)
        for shape, color in zip(shapes, colors, strict=True)
    ]
    if number > 1 and rng.random() < 0.2:
        twin = int(rng.integers(1, number))
        groups[0] = replace(groups[0], color=colors[0])
        groups[twin] = replace(groups[twin], shape=groups[0].shape, color=colors[twin])
    elif number > 1 and rng.random() < 0.15 and groups[0].color:  # one colour twice
        groups[1] = replace(groups[1], color=groups[0].color)
    return groups


class _Clauses:
    """Groups in the order of a text with relations added; `ordered` puts each behind what it refers to."""

    def __init__(self, groups: Sequence[Clause]) -> None:
        self.groups = list(groups)
        self.relations: dict[int, tuple[str, int]] = {}

    def relate(self, subject: int, relation: str, target: int) -> None:
        self.relations[subject] = (relation, target)

    def ordered(self) -> tuple[Clause, ...]:
        place: dict[int, int] = {}
        found: list[Clause] = []

        def put(index: int) -> None:
            if index in place:
                return
            related = self.relations.get(index)
            if related:
                put(related[1])
            said = (related[0], place[related[1]]) if related else None
            place[index] = len(found)
            found.append(replace(self.groups[index], relation=said))

        for index in range(len(self.groups)):
            put(index)
        return tuple(found)


# --- Words -----------------------------------------------------------------------------------------------------------

_RELATION_WORDS = {
    "left of": ("left of", "left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "right of", "to the right of", "on the right of", "on the right side of"),
    "above": ("above", "above", "above", "over", "higher than"),
    "below": ("below", "below", "below", "under", "beneath", "underneath", "lower than"),
}
_TO_IT = {
    "left of": ("to its left", "on its left", "left of it", "to the left of it"),
    "right of": ("to its right", "on its right", "right of it", "to the right of it"),
    "above": ("above it", "over it"),
    "below": ("below it", "under it", "beneath it"),
}
_FRAMES = (
    *("a photo of {}",) * 5,
    *("{}",) * 3,
    *("an image of {}", "a picture of {}", "a drawing of {}", "a scene with {}", "an illustration of {}"),
    *("a photo showing {}", "a picture with {}", "an image that shows {}", "an image containing {}", "photo of {}"),
    *("draw {}", "draw {}", "draw me {}", "please draw {}", "draw a picture of {}", "draw an image with {}"),
    *("paint {}", "show {}", "show me {}", "create {}", "create an image of {}", "create a picture with {}"),
    *("generate {}", "generate an image of {}", "generate a photo of {}", "make {}", "make a picture of {}"),
    *("make an image that has {}", "sketch {}", "render {}", "give me {}", "add {}", "put {} in the image"),
    *("I want {}", "I want to see {}", "I would like {}", "I need a picture of {}", "we need {}", "let there be {}"),
    *("there should be {}", "there should be {}", "there must be {}", "the image should show {}", "it shows {}"),
    *("the picture should contain {}", "the image has {}", "the image shows {}", "in the image there should be {}"),
    *("can you draw {}?", "could you paint {}, please?", "a simple picture of {}", "only {}", "just {}", "{}, please"),
    *("{} and nothing else", "{}, nothing else", "a photo of {} on a plain background", "imagine {}", "depict {}"),
)
_THERE = ("there is {}", "there is {}", "it has {}", "the image shows {}", "I see {}", "{}", "there should be {}")
_THERE_ARE = ("there are {}", "there are {}", "it has {}", "the image shows {}", "I see {}", "{}", "there should be {}")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def named(rng: np.random.Generator, clause: Clause) -> str:
    """A noun phrase that says all of a clause but its relation: "two red stars", "a star that is red"."""
    noun = clause.shape if clause.count == 1 else class_plural(clause.shape)
    color, size = clause.color, _pick(rng, ("small", "large", "big")) if rng.random() < 0.04 else None
    behind = ""
    if color and rng.random() < 0.1:
        behind = _pick(rng, (" that {be} {c}", " in {c}", " colored {c}", " which {be} {c}"))
        behind = behind.format(be="is" if clause.count == 1 else "are", c=color)
        color = None
    words = [word for word in (size, color, noun) if word]
    if clause.count == 1:
        draw = rng.random()
        lead = _article(words[0]) if draw < 0.85 else _pick(rng, ("one", "one", "a single", "exactly one", "1"))
    else:
        draw = rng.random()
        lead = NUMBER_WORDS[clause.count]
        if draw < 0.12:
            lead = str(clause.count)
        elif draw < 0.18:
            lead = f"exactly {lead}"
        elif draw < 0.22:
            lead = f"a group of {lead}"
        elif draw < 0.3 and clause.count == 2:
            lead = _pick(rng, ("a pair of", "a couple of", "both"))
            lead = "a pair of" if lead == "both" else lead
    return f"{lead} {' '.join(words)}{behind}"


def referred(rng: np.random.Generator, groups: Sequence[Clause], index: int) -> str:
    """ "the star", and which one where there are several."""
    clause = groups[index]
    noun = clause.shape if clause.count == 1 else class_plural(clause.shape)
    alone = sum(group.shape == clause.shape for group in groups) == 1
    color = clause.color if clause.color and (not alone or rng.random() < 0.45) else None
    return f"the {color} {noun}" if color else f"the {noun}"


def _listed(rng: np.random.Generator, parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if rng.random() < 0.08:
        return _pick(rng, (" and ", ", ", " plus ")).join(parts)
    last = _pick(rng, (" and ", " and ", " and ", ", and ", " together with ", " with "))
    return f"{', '.join(parts[:-1])}{last}{parts[-1]}"


def _framed(rng: np.random.Generator, text: str, more: str = "") -> str:
    """In a frame, perhaps as a sentence. more: sentences that follow."""
    frame = _pick(rng, _FRAMES)
    if more and ("?" in frame or "nothing" in frame):
        frame = "a photo of {}"
    said = frame.format(text)
    if more:
        return f"{_sentence(said)} {more}"
    if rng.random() < 0.4:
        said = f"{said[:1].upper()}{said[1:]}"
        return said if said.endswith("?") or rng.random() < 0.3 else f"{said}."
    return said


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


# --- Forms -----------------------------------------------------------------------------------------------------------


def _geneval(rng: np.random.Generator) -> Reading:
    caption = sample_caption(rng, {**TRAINING_WEIGHTS, COLORED_RELATION: 0.22})
    text = caption.text
    if rng.random() < 0.3:
        text = _framed(rng, text.removeprefix("a photo of "))
    return Reading("", text, caption.clauses)


def _list(rng: np.random.Generator) -> Reading:
    """Groups one after the other, with relations to what was named, or to what the relation names."""
    groups = sample_groups(rng)
    clauses = _Clauses(groups)
    relates = _pick(rng, (0.0, 0.35, 0.7))
    parts: list[str] = []
    index = 0
    while index < len(groups):
        part = named(rng, groups[index])
        subject = index
        # "a star left of a ring above a cross": each is said of the next.
        while subject + 1 < len(groups) and rng.random() < relates * 0.6:
            relation = _pick(rng, list(RELATIONS))
            clauses.relate(subject, relation, subject + 1)
            part += f" {_pick(rng, _RELATION_WORDS[relation])} {named(rng, groups[subject + 1])}"
            subject += 1
        chained = subject > index
        if not chained and index > 0 and rng.random() < relates:
            relation, target = _pick(rng, list(RELATIONS)), int(rng.integers(index))
            clauses.relate(index, relation, target)
            if target == index - 1 and rng.random() < 0.4 and groups[target].count == 1:
                part += f" {_pick(rng, _TO_IT[relation])}"
            else:
                part += f" {_pick(rng, _RELATION_WORDS[relation])} {referred(rng, groups, target)}"
        parts.append(part)
        index = subject + 1
    return Reading("", _framed(rng, _listed(rng, parts)), clauses.ordered())


def _sentences(rng: np.random.Generator) -> Reading:
    """A list or a sentence a group, then where they stand."""
    groups = sample_groups(rng)
    clauses = _Clauses(groups)
    later: list[str] = []
    for subject in rng.permutation(len(groups)).tolist():
        others = [i for i in range(len(groups)) if i != subject and not _leads_to(clauses, i, subject)]
        if others and rng.random() < 0.5:
            relation, target = _pick(rng, list(RELATIONS)), _pick(rng, others)
            clauses.relate(subject, relation, target)
            be = "is" if groups[subject].count == 1 else "are"
            verb = _pick(rng, (be, be, be, "should be", "must be"))
            words = _pick(rng, _RELATION_WORDS[relation])
            later.append(f"{referred(rng, groups, subject)} {verb} {words} {referred(rng, groups, target)}")
    names = [named(rng, group) for group in groups]
    form = rng.integers(4)
    if form == 0 and later:
        joint = _pick(rng, (", where ", ", and ", "; ", ", with "))
        told = " and ".join(later)
        if joint == ", with ":
            for verb in (" is ", " are ", " should be ", " must be "):
                told = told.replace(verb, " ")
        return Reading("", _framed(rng, f"{_listed(rng, names)}{joint}{told}"), clauses.ordered())
    if form == 1 and len(groups) == 2 and not clauses.relations:
        return _inverted(rng, groups)
    more = " ".join(_sentence(one) for one in later)
    if form <= 2:
        return Reading("", _framed(rng, _listed(rng, names), more), clauses.ordered())
    frames = [_THERE if group.count == 1 else _THERE_ARE for group in groups]
    told = " ".join(_sentence(_pick(rng, f).format(name)) for f, name in zip(frames, names, strict=True))
    return Reading("", f"{told} {more}".strip(), clauses.ordered())


def _leads_to(clauses: _Clauses, start: int, end: int) -> bool:
    while start in clauses.relations:
        start = clauses.relations[start][1]
        if start == end:
            return True
    return False


def _inverted(rng: np.random.Generator, groups: Sequence[Clause]) -> Reading:
    """ "To the left of a star there is a ring", "a star with a ring above it": the second is said of the first."""
    clauses, relation = _Clauses(groups), _pick(rng, list(RELATIONS))
    clauses.relate(1, relation, 0)
    first, second = (named(rng, group) for group in groups)
    words, be = _pick(rng, _RELATION_WORDS[relation]), "is" if groups[1].count == 1 else "are"
    if rng.random() < 0.5:
        text = _sentence(f"{words} {first} {_pick(rng, (f'there {be}', be, 'I want'))} {second}")
    else:
        it = _pick(rng, _TO_IT[relation]) if groups[0].count == 1 else f"{words} them"
        joint = _pick(rng, (" with {s} {it}", " and {s} {it}", ", and {it} {s}", ", {it} {s}"))
        text = _framed(rng, first + joint.format(s=second, it=it))
    return Reading("", text, clauses.ordered())


def _shared(rng: np.random.Generator) -> Reading:
    """One word for several: "a red and a blue star", "two stars, one red and one blue", "a star and a ring, both red",
    "two red stars and a blue one"."""
    groups = [replace(group, color=None) for group in sample_groups(rng)]
    first, second = rng.permutation(list(COLORS))[:2].tolist()
    shape = groups[0].shape
    form = rng.integers(4)
    if form == 0:
        text = f"{_article(first)} {first} and {_article(second)} {second} {shape}"
        made = [Clause(shape, 1, first), Clause(shape, 1, second)]
    elif form == 1:
        text = f"two {class_plural(shape)}, one {first} and {_pick(rng, ('one', 'the other'))} {second}"
        made = [Clause(shape, 1, first), Clause(shape, 1, second)]
    elif form == 2:
        count = _some_count(rng)
        text = f"{named(rng, Clause(shape, count, first))} and {_article(second)} {second} one"
        made = [Clause(shape, count, first), Clause(shape, 1, second)]
    else:
        others = [g for i, g in enumerate(groups) if g.shape not in {h.shape for h in groups[:i]}]
        if len(others) == 1:
            others.append(Clause(_pick(rng, [s for s in SHAPES if s != shape]), _some_count(rng)))
        both = "both" if len(others) == 2 and all(g.count == 1 for g in others) else "all"
        text = f"{_listed(rng, [named(rng, g) for g in others])}, {both} {first}"
        made = [replace(group, color=first) for group in others]
    return Reading("", _framed(rng, text), tuple(made))


def _long(rng: np.random.Generator) -> Reading:
    text, _ = sample_long_caption(rng)
    return Reading("", text, caption_of_text(text).clauses)


def _absent(rng: np.random.Generator) -> Reading:
    """ "a star without a ring", "two stars and no rings"."""
    groups = sample_groups(rng)[:2]
    shape = _pick(rng, [s for s in SHAPES if s not in {g.shape for g in groups}])
    several = class_plural(shape)
    joint = _pick(
        rng, ("but no {p}", "and no {p}", "without {a} {s}", "without any {p}", "but not {a} {s}", "and no {s}")
    )
    told = joint.format(p=several, s=shape, a=_article(shape))
    text = _framed(rng, f"{_listed(rng, [named(rng, g) for g in groups])} {told}")
    return Reading("", text, tuple(groups), (shape,))


def _spoilt(rng: np.random.Generator) -> Reading:
    forms = {form: share for form, share in FORMS.items() if form not in ("spoilt", "unknown")}
    return Reading("", spoil(rng, sample_reading(rng, None, forms).text))


def _unknown(rng: np.random.Generator) -> Reading:
    return Reading("", unknown_prompt(rng))


_MAKERS = {
    "geneval": _geneval,
    "list": _list,
    "sentences": _sentences,
    "shared": _shared,
    "long": _long,
    "absent": _absent,
    "spoilt": _spoilt,
    "unknown": _unknown,
}
