"""GenEval's JSON form of requirements: `{"class", "count", "color"?, "position"?: [relation, index]}`."""

from collections.abc import Sequence

from inference.judges.known_words import KnownWords
from schemas.foreign_json import (
    BadValue,
    check_choice,
    check_int,
    check_keys,
    check_text,
    near_matches,
    quote,
)
from schemas.records import RELATIONS, ObjectClause

MAX_CLAUSES = 16
MAX_OBJECTS_OF_A_CLASS = 16  # GenEval looks at no more than 16 detections of a class
_MAX_NAME_CHARS = 100
_FORM = 'a list of objects as in [{"class": "cat", "count": 1}]'


def _known(name: str, known: frozenset[str] | None, kind: str, field: str, or_else: str) -> str:
    if known is not None and name not in known:
        hint = near_matches(name, sorted(known))
        some = ", ".join(sorted(known)[:8]) + (" …" if len(known) > 8 else "")
        raise BadValue(f"unknown {kind} {quote(name)}{hint}", field, f"one of the {len(known)} known: {some}{or_else}")
    return name


def check_words(clause: ObjectClause, field: str, known: KnownWords) -> None:
    """BadValue for a class or colour that is not known."""
    _known(clause.class_name, known.classes, "class", field, known.or_else)
    if clause.color is not None:
        _known(clause.color, known.colors, "color", field, known.or_else)


def _objects(value: object, field: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadValue(f"{quote(value)} is no list", field, _FORM)
    if len(value) > MAX_CLAUSES:
        raise BadValue(f"{len(value)} clauses", field, f"at most {MAX_CLAUSES}")
    return value


def _class_name(item: dict[str, object], field: str, known: KnownWords) -> str:
    if "class" not in item:
        raise BadValue("a clause has no class", f"{field}.class", 'as in {"class": "cat", "count": 1}')
    name = check_text(item["class"], f"{field}.class", _MAX_NAME_CHARS)
    return _known(name, known.classes, "class", f"{field}.class", known.or_else)


def _position(value: object, field: str, index: int, num_clauses: int) -> tuple[str, int]:
    expected = f"[relation, index], relation one of {', '.join(RELATIONS)}"
    if not isinstance(value, list) or len(value) != 2:
        raise BadValue(f"{quote(value)} is no position", field, expected)
    relation = check_choice(value[0], f"{field}[0]", RELATIONS)
    # Only backwards, as GenEval's scorer reads it: the object a clause refers to has been looked for before.
    if isinstance(value[1], bool) or not isinstance(value[1], int) or not 0 <= value[1] < index:
        if value[1] == index and not isinstance(value[1], bool):
            problem = "the clause refers to itself"
        elif index == 0:
            problem = "the first clause has no earlier one to refer to"
        else:
            problem = f"index {quote(value[1])} names no earlier clause of {num_clauses}"
        raise BadValue(problem, f"{field}[1]", "the index of an earlier include clause, counted from 0")
    return relation, value[1]


def parse_include(value: object, known: KnownWords) -> tuple[ObjectClause, ...]:
    """The `include` list; absent means empty. Raises BadValue with the field, as `include[1].position[0]`."""
    objects = _objects(value, "include")
    clauses: list[ObjectClause] = []
    for index, entry in enumerate(objects):
        field = f"include[{index}]"
        item = check_keys(entry, field, ("class", "count", "color", "position"))
        name = _class_name(item, field, known)
        count = check_int(item.get("count", 1), f"{field}.count", 1, MAX_OBJECTS_OF_A_CLASS)
        color = relation = target = None
        if "color" in item:
            color = check_text(item["color"], f"{field}.color", _MAX_NAME_CHARS)
            _known(color, known.colors, "color", f"{field}.color", known.or_else)
        if "position" in item:
            relation, target = _position(item["position"], f"{field}.position", index, len(objects))
        clauses.append(ObjectClause(name, count, color, relation, target))
    return tuple(clauses)


def parse_exclude(value: object, include: tuple[ObjectClause, ...], known: KnownWords) -> tuple[ObjectClause, ...]:
    """The `exclude` list: "`count` or more of the class fail the image". Raises BadValue, also where `include` asks for
    as many objects as `exclude` forbids."""
    clauses: list[ObjectClause] = []
    for index, entry in enumerate(_objects(value, "exclude")):
        field = f"exclude[{index}]"
        item = check_keys(entry, field, ("class", "count"))
        name = _class_name(item, field, known)
        count = check_int(item.get("count", 1), f"{field}.count", 1, MAX_OBJECTS_OF_A_CLASS + 1)
        wanted = max((clause.count for clause in include if clause.class_name == name), default=0)
        if count <= wanted:
            problem = f"{count} of {quote(name)} are forbidden and {wanted} asked for: no image can be correct"
            raise BadValue(problem, f"{field}.count", f"at least {wanted + 1}")
        clauses.append(ObjectClause(name, count))
    return tuple(clauses)


def as_entries(clauses: Sequence[ObjectClause]) -> list[dict[str, object]]:
    """The way back: clauses as `include` or `exclude` lists them. The count always stands there, as GenEval has it."""
    entries = []
    for clause in clauses:
        entry: dict[str, object] = {"class": clause.class_name, "count": clause.count}
        if clause.color:
            entry["color"] = clause.color
        if clause.relation:
            entry["position"] = [clause.relation, clause.relative_to]
        entries.append(entry)
    return entries
