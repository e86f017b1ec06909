"""The atoms of a prompt: the smallest things that it asks for, each of which an image meets or not.

Typed atoms come from a record's clauses in GenEval's form (object, count, colour, relation) and are checked by what a
detector finds; questions have an expected answer (GenEval 2's `vqa_list`, or what a VLM makes of a free prompt) and are
put to a VLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from inference.grounding.rule_reflection import counted, plural
from schemas.records import AtomValue, ObjectClause, PromptRecord, Question

FLOOR = 1e-6
"""Of an atom's probability, so that its logarithm stays finite."""
HOLDS = 0.5
"""From this probability on an atom counts as met."""


class AtomKind(StrEnum):
    """What an atom asks."""

    OBJECT = "object"
    COUNT = "count"
    COLOR = "color"
    RELATION = "relation"
    QUESTION = "question"


@dataclass(frozen=True)
class Atom:
    """One requirement. text: in words, as people read it. clause: of a typed one, its index in the record's `include`;
    for what must not be there, `excluded` is its index in `exclude`. question: of kind question."""

    kind: AtomKind
    text: str
    clause: int | None = None
    excluded: int | None = None
    question: Question | None = None


def atoms_of(record: PromptRecord) -> tuple[Atom, ...]:
    """All that a record asks for, clause by clause, then its questions; () for a free prompt.

    One object is an atom of kind object; several of a class are one of kind count, which also has what `exclude` says
    against one more of them. A colour and a relation are atoms of their own.
    """
    atoms: list[Atom] = []
    several: set[str] = set()
    for index, clause in enumerate(record.include):
        if clause.count > 1:
            several.add(clause.class_name)
        atoms += _atoms_of_clause(record, index, clause)
    for index, clause in enumerate(record.exclude):
        if clause.class_name in several:
            continue
        text = (
            f"no {clause.class_name}" if clause.count == 1 else f"fewer than {counted(clause.count, clause.class_name)}"
        )
        atoms.append(Atom(AtomKind.COUNT, text, excluded=index))
    return (*atoms, *(Atom(AtomKind.QUESTION, question.text, question=question) for question in record.questions))


def _atoms_of_clause(record: PromptRecord, index: int, clause: ObjectClause) -> list[Atom]:
    kind = AtomKind.COUNT if clause.count > 1 else AtomKind.OBJECT
    atoms = [Atom(kind, counted(clause.count, clause.class_name), index)]
    name = noun_of(clause)
    is_or_are = "is" if clause.count == 1 else "are"
    if clause.color is not None:
        atoms.append(Atom(AtomKind.COLOR, f"the {name} {is_or_are} {clause.color}", index))
    if clause.relation is not None and clause.relative_to is not None:
        other = noun_of(record.include[clause.relative_to])
        atoms.append(Atom(AtomKind.RELATION, f"the {name} {is_or_are} {clause.relation} the {other}", index))
    return atoms


def noun_of(clause: ObjectClause) -> str:
    """What its objects are called, one or several."""
    return clause.class_name if clause.count == 1 else plural(clause.class_name)


def failing(atoms: Sequence[AtomValue]) -> list[AtomValue]:
    """Those that an image does not meet, the worst first."""
    return sorted((atom for atom in atoms if atom.value < HOLDS), key=lambda atom: atom.value)


def flaws(atoms: Sequence[AtomValue]) -> list[AtomValue]:
    """What is to be mended so that an image meets all, the worst first: of what fails, a question each, and of the rest
    one for each mend. (What is missing has no colour and no place either, but is mended at once.) Where no mend is
    known, all that fails."""
    failed = failing(atoms)
    kept: dict[str, AtomValue] = {}
    for atom in failed:
        if said := atom.text if atom.kind == AtomKind.QUESTION else atom.mend:
            kept.setdefault(said, atom)
    return list(kept.values()) or failed


def log_odds_of_all(atoms: Sequence[AtomValue]) -> float:
    """Log-odds that an image meets all its atoms, taken as independent. Images of one prompt come in the same order by
    this as by their mean log-probability (Soft-TIFA's geometric mean, GenEval 2)."""
    log_p = sum(math.log(min(max(atom.value, FLOOR), 1.0)) for atom in atoms)
    return log_p - math.log(max(-math.expm1(log_p), FLOOR))
