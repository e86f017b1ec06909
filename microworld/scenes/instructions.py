"""What one-operation edits are called: an `Edit` to an English instruction, and instructions back to edits.

The canonical wording is that of the rule subset's reflections (`inference.grounding.rule_reflection`); with a random
generator the same edit is said in a few other ways. `parse_instruction` reads all of them and nothing else, so that a
benchmark can judge whether a reflection names a real flaw.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np

from inference.grounding.rule_reflection import NUMBER_WORDS
from microworld.scenes.captions import PLACES, RELATIONS, class_plural
from microworld.scenes.world import COLORS, SHAPES


class Operation(StrEnum):
    """What an edit does to a scene."""

    ADD = "add"
    REMOVE = "remove"
    RECOLOR = "recolor"
    RESHAPE = "reshape"
    MOVE = "move"
    RECOUNT = "recount"


@dataclass(frozen=True)
class Edit:
    """One operation as an instruction names it; None where a field does not apply or is left unsaid.

    shape, color, count: of the objects the operation touches, as they are before it (added ones: after it; RECOUNT:
    how many there are before it). one_of: one of several that look alike. new_*: what they become. relation, target*:
    where they go, seen from another object. place: where they go, a key of `captions.PLACES`.
    """

    operation: Operation
    shape: str
    color: str | None = None
    count: int | None = 1
    new_shape: str | None = None
    new_color: str | None = None
    new_count: int | None = None
    relation: str | None = None
    target: str | None = None
    target_color: str | None = None
    place: str | None = None
    one_of: bool = False


def agrees(said: Edit, true: Edit) -> bool:
    """Whether `said` names what `true` does: the same operation on the same shape, and nothing else in conflict.

    What either of the two leaves unsaid (None) is no conflict, nor is "the" where "one" would be exact.
    """
    names = [f.name for f in fields(Edit) if f.name != "one_of"]
    pairs = [(getattr(said, name), getattr(true, name)) for name in names]
    return all(a is None or b is None or a == b for a, b in pairs)


def split_sentences(text: str) -> list[str]:
    """The sentences of a reflection, each with its period."""
    return [sentence for sentence in re.split(r"(?<=\.)\s+", text.strip()) if sentence]


# --- From edits to sentences -----------------------------------------------------------------------------------------


def instruction(edit: Edit, rng: np.random.Generator | None = None) -> str:
    """One imperative English sentence; the canonical wording, or with `rng` any of several."""
    wordings = _WORDINGS[edit.operation](edit)
    chosen = wordings[0] if rng is None else wordings[rng.integers(len(wordings))]
    return f"{chosen[0].upper()}{chosen[1:]}."


def _name(color: str | None, shape: str, count: int | None = 1) -> str:
    noun = shape if count == 1 else class_plural(shape)
    return f"{color} {noun}" if color else noun


def _counted(color: str | None, shape: str, count: int) -> str:
    name = _name(color, shape, count)
    if count > 1:
        return f"{_number(count)} {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _number(count: int) -> str:
    return NUMBER_WORDS[count] if count < len(NUMBER_WORDS) else str(count)


def _which(edit: Edit) -> str:
    """ "the blue star", "one blue star", "the two blue stars", "the blue stars"."""
    name = _name(edit.color, edit.shape, edit.count)
    if edit.one_of:
        return f"one {name}"
    return f"the {name}" if edit.count in (1, None) else f"the {_number(edit.count)} {name}"


def _where(edit: Edit, bare: bool = False) -> str:
    """ "to the left of the ring" (`bare`: "left of the ring"), "above the ring"; "" without a relation."""
    if edit.relation is None or edit.target is None:
        return ""
    to_the = "to the " if edit.relation.endswith(" of") and not bare else ""
    return f"{to_the}{edit.relation} the {_name(edit.target_color, edit.target)}"


def _add(edit: Edit) -> list[str]:
    what = _counted(edit.color, edit.shape, edit.count or 1)
    where = f" {_where(edit)}" if edit.relation else ""
    wordings = [f"add {what}{where}", f"draw {what}{where}", f"put {what}{where or ' in the image'}"]
    return wordings if edit.count != 1 else [*wordings, f"there should be {what}{where}"]


def _remove(edit: Edit) -> list[str]:
    name = _name(edit.color, edit.shape, edit.count)
    which = f"the {name}" if edit.count in (1, None) else f"all {_number(edit.count)} {name}"
    return [f"remove {which}", f"delete {which}", f"erase {which}", f"there should be no {name}"]


def _recolor(edit: Edit) -> list[str]:
    which, new, plain = _which(edit), edit.new_color, [f"make {_which(edit)} {edit.new_color}"]
    others = [f"turn {which} {new}", f"paint {which} {new}", f"change {which} to {new}"]
    if not edit.one_of:
        others += [f"{which} should be {new}", f"change the color of {which} to {new}"]
    if edit.color is None or edit.count is None:
        return plain + others
    replace = f"replace {which} by {_counted(new, edit.shape, edit.count)}"
    with_one = [f"replace {which} with {_counted(new, 'one', 1)}"] if edit.count == 1 else []
    return [replace, *plain, *plain, *others, *with_one]


def _reshape(edit: Edit) -> list[str]:
    assert edit.new_shape is not None
    which, new = _which(edit), _counted(edit.color, edit.new_shape, 1)
    others = [f"turn {which} into {new}", f"change {which} into {new}", f"replace {which} with {new}"]
    return [f"replace {which} by {new}", *others, *([] if edit.one_of else [f"{which} should be {new}"])]


def _move(edit: Edit) -> list[str]:
    which = _which(edit)
    if edit.place is not None:
        there = PLACES[edit.place]
        to_there = f"to the {edit.place}"
        return [
            f"put {which} {there}",
            f"move {which} {to_there}",
            f"place {which} {there}",
            f"{which} should be {there}",
        ]
    where, bare = _where(edit), _where(edit, bare=True)
    return [f"move {which} {where}", f"put {which} {where}", f"place {which} {where}", f"{which} should be {bare}"]


def _recount(edit: Edit) -> list[str]:
    assert edit.new_count is not None
    new = edit.new_count
    total = f"there should be {_number(new)} {_name(edit.color, edit.shape, new)}"
    only = f"there should be only {_number(new)} {_name(edit.color, edit.shape, new)}"
    if edit.count is None:
        return [total]
    missing = new - edit.count
    name = _name(edit.color, edit.shape, abs(missing))
    so_that = f"so that there {'is' if new == 1 else 'are'} {_number(new)}"
    if missing > 0:
        where = f" {_where(edit)}" if edit.relation else ""
        return [f"add {_number(missing)} more {name}{where} {so_that}", *([] if where else [total, total])]
    return [f"remove {_number(-missing)} {name} {so_that}", total, only]


_WORDINGS: dict[Operation, Callable[[Edit], list[str]]] = {
    Operation.ADD: _add,
    Operation.REMOVE: _remove,
    Operation.RECOLOR: _recolor,
    Operation.RESHAPE: _reshape,
    Operation.MOVE: _move,
    Operation.RECOUNT: _recount,
}

# --- From sentences to edits -----------------------------------------------------------------------------------------

_SINGULAR = {class_plural(shape): shape for shape in SHAPES}
_NUMBERS = {word: number for number, word in enumerate(NUMBER_WORDS) if number} | {"a": 1, "an": 1}
_COLOR = "|".join(COLORS)
_NUM = rf"{'|'.join(w for w in _NUMBERS if len(w) > 2)}|\d+"
_RELATION = "|".join(RELATIONS)


def _noun(prefix: str) -> str:
    return rf"(?:(?P<{prefix}color>{_COLOR}) )?(?P<{prefix}noun>{'|'.join([*_SINGULAR, *SHAPES])})"


_WHICH = rf"(?:(?P<one>one)|the(?: (?P<n>{_NUM}))?) {_noun('')}"
_THERE = rf"(?:to the )?(?P<relation>{_RELATION}) the {_noun('t')}"
_PATTERNS: dict[Operation, list[re.Pattern[str]]] = {
    Operation.RECOUNT: [
        re.compile(
            rf"(?P<sign>add) (?P<n>{_NUM}) more {_noun('')}(?: {_THERE})? so that there (?:is|are) (?P<m>{_NUM})"
        ),
        re.compile(rf"(?P<sign>remove) (?P<n>{_NUM}) {_noun('')} so that there (?:is|are) (?P<m>{_NUM})"),
        re.compile(rf"there should be (?:only )?(?P<m>{_NUM}) {_noun('')}"),
    ],
    Operation.ADD: [
        re.compile(rf"(?:add|draw) (?P<n>a|an|{_NUM}) {_noun('')}(?: {_THERE})?"),
        re.compile(rf"put (?P<n>a|an|{_NUM}) {_noun('')} (?:in the image|{_THERE})"),
        re.compile(rf"there should be (?P<n>a|an) {_noun('')}(?: {_THERE})?"),
    ],
    Operation.REMOVE: [
        re.compile(rf"(?:remove|delete|erase) (?:the|all (?P<n>{_NUM})) {_noun('')}"),
        re.compile(rf"there should be no {_noun('')}"),
    ],
    Operation.RECOLOR: [
        re.compile(
            rf"replace {_WHICH} (?:by|with) (?P<k>a|an|{_NUM}) (?P<newcolor>{_COLOR}) (?P<newnoun>one|(?P=noun))"
        ),
        re.compile(rf"(?:make|turn|paint) {_WHICH} (?P<newcolor>{_COLOR})"),
        re.compile(rf"change {_WHICH} to (?P<newcolor>{_COLOR})"),
        re.compile(rf"change the color of {_WHICH} to (?P<newcolor>{_COLOR})"),
        re.compile(rf"{_WHICH} should be (?P<newcolor>{_COLOR})"),
    ],
    Operation.RESHAPE: [
        re.compile(rf"replace {_WHICH} (?:by|with) (?:a|an) {_noun('new')}"),
        re.compile(rf"(?:turn|change) {_WHICH} into (?:a|an) {_noun('new')}"),
        re.compile(rf"{_WHICH} should be (?:a|an) {_noun('new')}"),
    ],
    Operation.MOVE: [
        re.compile(rf"(?:move|put|place) {_WHICH} {_THERE}"),
        re.compile(rf"{_WHICH} should be {_THERE}"),
        re.compile(rf"(?:move|put|place) {_WHICH} (?:to|in|at|on) the (?P<place>{'|'.join(PLACES)})"),
        re.compile(rf"{_WHICH} should be (?:in|at|on) the (?P<place>{'|'.join(PLACES)})"),
    ],
}


def parse_instruction(text: str) -> Edit | None:
    """The edit that a sentence of `instruction` or `write_reflection` names; None for any other text.

    Case, white space and the final period do not matter. A plural without a number gives count None.
    """
    words = _words(text)
    for operation, patterns in _PATTERNS.items():
        for pattern in patterns:
            if match := pattern.fullmatch(words):
                edit = _read(operation, match.groupdict())
                if edit is not None:
                    return edit
    return None


def parse_replacement(text: str) -> Edit | None:
    """What one object is to be replaced by, of another shape, colour or both ("Replace one red star by a blue ring.").
    None for any other text. new_color: None where it keeps its own."""
    said = _PATTERNS[Operation.RESHAPE][0].fullmatch(_words(text))
    if said is None or said["n"] or not {said["noun"], said["newnoun"]} <= SHAPES.keys():
        return None
    is_one_of, new_shape, new_color = said["one"] is not None, said["newnoun"], said["newcolor"]
    return Edit(
        Operation.RESHAPE, said["noun"], said["color"], new_shape=new_shape, new_color=new_color, one_of=is_one_of
    )


def _words(text: str) -> str:
    return " ".join(text.lower().strip().removesuffix(".").split())


def _int(word: str) -> int:
    return _NUMBERS[word] if word in _NUMBERS else int(word)


def _read(operation: Operation, said: dict[str, str | None]) -> Edit | None:
    """The edit of one pattern's groups, None where they contradict each other ("one rings", "red star by red star")."""
    noun, number, total = said["noun"] or "", said.get("n"), said.get("m")
    shape, is_plural = _SINGULAR.get(noun, noun), noun in _SINGULAR
    color, new_color = said.get("color"), said.get("newcolor")
    one_of = said.get("one") is not None
    count = _int(number) if number else None if is_plural else 1
    target_noun = said.get("tnoun") or ""
    target = _SINGULAR.get(target_noun, target_noun) or None
    relation, target_color = said.get("relation"), said.get("tcolor")
    if operation is not Operation.RECOUNT and is_plural != (count != 1):
        return None
    match operation:
        case Operation.RECOUNT:
            where = Edit(operation, shape, color, relation=relation, target=target, target_color=target_color)
            return _read_recount(where, said.get("sign"), number, total, is_plural)
        case Operation.RECOLOR:
            replacing = said.get("newnoun") is not None
            new_number = said.get("k")
            same_number = not new_number or _int(new_number) == count
            if color == new_color or not same_number or (replacing and color is None):
                return None
            return Edit(operation, shape, color, count, new_color=new_color, one_of=one_of)
        case Operation.RESHAPE:
            new_shape = said["newnoun"] or ""
            if new_shape in (*_SINGULAR, shape) or is_plural or new_color not in (None, color):
                return None
            return Edit(operation, shape, color, new_shape=new_shape, one_of=one_of)
        case Operation.MOVE:
            edit = Edit(operation, shape, color, count, place=said.get("place"), one_of=one_of)
        case _:
            edit = Edit(operation, shape, color, count)
    return replace(edit, relation=relation, target=target, target_color=target_color)


def _read_recount(edit: Edit, sign: str | None, number: str | None, total: str | None, is_plural: bool) -> Edit | None:
    new_count = _int(total or "")
    if sign is None:
        counted, before = new_count, None
    else:
        counted = _int(number or "")
        before = new_count - counted if sign == "add" else new_count + counted
    if is_plural != (counted != 1) or (before is not None and before < 0):
        return None
    return replace(edit, count=before, new_count=new_count)
