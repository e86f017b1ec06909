"""What would mend an image, requirement by requirement, in the words of the rule subset's reflections; what is there
instead of an asked object is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from inference.grounding.check import UNKNOWN_COLOR
from inference.grounding.rule_reflection import addition, counted, number_word, plural, removal
from inference.requirements.assign import assign, misplaced, slots_of
from inference.requirements.atoms import Atom, AtomKind
from schemas.records import DetectedObject, ObjectClause, PromptRecord


class Mends:
    """The edits that an image needs, by requirement. objects: all that is in it, each once."""

    def __init__(self, record: PromptRecord, objects: Sequence[DetectedObject]) -> None:
        self._record, self._objects = record, objects
        self._slots = slots_of(record)
        self._items = assign(record, objects)
        self._misplaced = misplaced(record, self._slots, self._items)

    def of(self, atom: Atom) -> str | None:
        """One or more sentences that would mend a requirement which fails; None where another one's do (what is missing
        has no colour and no place), or where nothing is found that would."""
        if atom.excluded is not None:
            clause = self._record.exclude[atom.excluded]
            return self._removed(clause.class_name, clause.count - 1)
        if atom.clause is None:
            return None
        clause = self._record.include[atom.clause]
        match atom.kind:
            case AtomKind.COLOR:
                surplus = self._removed(clause.class_name, self._allowed(clause))
                said = self._recolored(atom.clause) or surplus or self._made_of_others(atom.clause)
            case AtomKind.RELATION if atom.clause in self._misplaced:
                said = self._moved(clause)
            case AtomKind.RELATION:
                others = (atom.clause, clause.relative_to)
                said = next((text for i in others if i is not None and (text := self._made_of_others(i))), "")
            case _:
                said = self._made(atom.clause) or self._removed(clause.class_name, self._allowed(clause))
        return said or None

    def _allowed(self, clause: ObjectClause) -> int:
        return sum(other.count for other in self._record.include if other.class_name == clause.class_name)

    def _of_clause(self, index: int) -> list[DetectedObject | None]:
        return [item for slot, item in zip(self._slots, self._items, strict=True) if slot.clause == index]

    def _made(self, index: int) -> str:
        """What is missing, of what nobody asked for as far as that goes, the rest added."""
        clause, items = self._record.include[index], self._of_clause(index)
        others = [item for item in items if item and item.class_name != clause.class_name]
        sentences = [self._reshaped(clause, item) for item in others]
        if missing := items.count(None):
            sentences.append(self._added(clause, missing))
        return " ".join(sentences)

    def _made_of_others(self, index: int) -> str:
        """What is made of other things although there are enough of the class, which become something else: then no
        other requirement says so."""
        clause = self._record.include[index]
        are_enough = sum(item.class_name == clause.class_name for item in self._objects) >= self._allowed(clause)
        return self._made(index) if are_enough else ""

    def _reshaped(self, clause: ObjectClause, item: DetectedObject) -> str:
        new = " ".join(word for word in (clause.color, clause.class_name) if word)
        return f"Replace {self._named(item)} by {counted(1, new)}."

    def _added(self, clause: ObjectClause, missing: int) -> str:
        name = " ".join(word for word in (clause.color, clause.class_name) if word)
        where = ""
        if clause.relation is not None and clause.relative_to is not None:
            where = f" {_place(clause, self._record.include[clause.relative_to])}"
        return addition(name, clause.count, clause.count - missing, where)

    def _recolored(self, index: int) -> str:
        """Objects of the right class and the wrong colour; all that look alike together."""
        clause, color = self._record.include[index], self._record.include[index].color
        items = [item for item in self._of_clause(index) if item and item.class_name == clause.class_name]
        wrong = [item for item in items if item.color != color]
        sentences = []
        for old, number in Counter(_color_of(item) for item in wrong).items():
            one = next(item for item in wrong if _color_of(item) == old)
            new = f"{color} {clause.class_name}"
            if old is None:
                name = clause.class_name if number == 1 else plural(clause.class_name)
                sentences.append(f"Make the {name} {color}.")
            elif number == 1:
                sentences.append(f"Replace {self._named(one)} by {counted(1, new)}.")
            elif number == self._alike(one):
                kept = plural(f"{old} {clause.class_name}")
                sentences.append(f"Replace the {number_word(number)} {kept} by {counted(number, new)}.")
            else:
                sentences += [f"Replace {self._named(one)} by {counted(1, new)}."] * number
        return " ".join(dict.fromkeys(sentences))

    def _moved(self, clause: ObjectClause) -> str:
        assert clause.relative_to is not None
        return f"Move {_definite(clause)} {_place(clause, self._record.include[clause.relative_to])}."

    def _removed(self, class_name: str, allowed: int) -> str:
        """Objects of a class beyond those that may be there, without those that become something else."""
        becoming = {
            id(item)
            for slot, item in zip(self._slots, self._items, strict=True)
            if item and slot.class_name != class_name
        }
        number = sum(item.class_name == class_name and id(item) not in becoming for item in self._objects)
        return removal(class_name, allowed, number) if number > allowed else ""

    def _named(self, item: DetectedObject) -> str:
        """ "the blue star", "one blue star" of several that look alike."""
        name = " ".join(word for word in (_color_of(item), item.class_name) if word)
        return f"{'the' if self._alike(item) == 1 else 'one'} {name}"

    def _alike(self, item: DetectedObject) -> int:
        return sum((o.class_name, _color_of(o)) == (item.class_name, _color_of(item)) for o in self._objects)


def _color_of(item: DetectedObject) -> str | None:
    return None if item.color in (None, "", UNKNOWN_COLOR) else item.color


def _definite(clause: ObjectClause) -> str:
    name = " ".join(word for word in (clause.color, clause.class_name) if word)
    return f"the {name if clause.count == 1 else plural(name)}"


def _place(clause: ObjectClause, target: ObjectClause) -> str:
    relation = clause.relation or ""
    to_the = "to the " if relation.endswith(" of") else ""
    return f"{to_the}{relation} {_definite(target)}"


def plain_mend(record: PromptRecord, atom: Atom) -> str | None:
    """What would mend a typed requirement of an image that nobody has looked at for objects; None for a question."""
    if atom.excluded is not None:
        clause = record.exclude[atom.excluded]
        if clause.count == 1:
            return f"Remove the {clause.class_name}."
        return f"There should be only {counted(clause.count - 1, clause.class_name)}."
    if atom.clause is None:
        return None
    clause = record.include[atom.clause]
    name = " ".join(word for word in (clause.color, clause.class_name) if word)
    match atom.kind:
        case AtomKind.COLOR:
            return f"Make {_definite(replace(clause, color=None))} {clause.color}."
        case AtomKind.COUNT:
            return f"There should be {counted(clause.count, name)}."
        case AtomKind.RELATION:
            assert clause.relative_to is not None
            return f"Move {_definite(clause)} {_place(clause, record.include[clause.relative_to])}."
        case _:
            return f"Add {counted(1, name)}."
