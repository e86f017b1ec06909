"""Why an image fails a check: one `Failure` for each line of a check's reasons, to sentence and back.

The sentences are GenEval's, with the target's class named where GenEval writes "target".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from schemas.records import RELATIONS


class FailureKind(StrEnum):
    """What did not hold."""

    MISSING = "missing"  # fewer objects than asked for
    COLOR = "color"  # enough objects, not all of the colour
    RELATION = "relation"  # in the wrong place
    NO_TARGET = "no_target"  # nothing it could be placed against
    TOO_MANY = "too_many"  # an exclude clause


@dataclass(frozen=True)
class Failure:
    """One failed requirement. count: of the clause (for TOO_MANY: the number that must not be reached).

    found_colors: one for each of the `count` objects looked at, most confident first.
    """

    kind: FailureKind
    class_name: str
    count: int = 1
    num_found: int = 0
    color: str | None = None
    found_colors: tuple[str, ...] = ()
    relation: str | None = None
    target: str | None = None
    found_relations: tuple[str, ...] = ()

    def with_target(self, class_name: str) -> Failure:
        return replace(self, target=class_name)

    def sentence(self) -> str:
        """One line, as `parse_reason` reads it."""
        match self.kind:
            case FailureKind.MISSING:
                return f"expected {self.class_name}>={self.count}, found {self.num_found}"
            case FailureKind.TOO_MANY:
                return f"expected {self.class_name}<{self.count}, found {self.num_found}"
            case FailureKind.COLOR:
                others = [c for c in dict.fromkeys(self.found_colors) if c != self.color]
                counted = ", ".join(f"{self.found_colors.count(c)} {c}" for c in others)
                right = self.found_colors.count(self.color or "")
                return (
                    f"expected {self.color} {self.class_name}>={self.count}, found {right} {self.color}; and {counted}"
                )
            case FailureKind.RELATION:
                found = ", ".join(self.found_relations) or "no clear relation to"
                return f"expected {self.class_name} {self.relation} {self.target}, found {found} {self.target}"
            case FailureKind.NO_TARGET:
                return f"no target for {self.class_name} to be {self.relation} {self.target}"


_RELATION = "|".join(RELATIONS)
_COLOR_LINE = re.compile(
    r"expected (?P<color>.+?) (?P<name>.+)>=(?P<count>\d+), found (?P<right>\d+) (?P=color); and (?P<others>.+)"
)
_COUNT_LINE = re.compile(r"expected (?P<name>.+)(?P<sign>>=|<)(?P<count>\d+), found (?P<found>\d+)")
_RELATION_LINE = re.compile(
    rf"expected (?P<name>.+?) (?P<relation>{_RELATION}) (?P<target>.+), found (?P<found>.+) (?P=target)"
)
_TARGET_LINE = re.compile(rf"no target for (?P<name>.+?) to be (?P<relation>{_RELATION}) (?P<target>.+)")


def parse_reason(line: str) -> Failure:
    """The failure that `Failure.sentence` wrote. Counts of relation clauses are not in the sentence and become 1.

    Raises ValueError for any other line.
    """
    if match := _COLOR_LINE.fullmatch(line):
        colors = [match["color"]] * int(match["right"])
        for part in match["others"].split(", "):
            number, color = part.split(" ", 1)
            colors += [color] * int(number)
        return Failure(
            FailureKind.COLOR,
            match["name"],
            count=int(match["count"]),
            color=match["color"],
            found_colors=tuple(colors),
        )
    if match := _COUNT_LINE.fullmatch(line):
        kind = FailureKind.MISSING if match["sign"] == ">=" else FailureKind.TOO_MANY
        return Failure(kind, match["name"], count=int(match["count"]), num_found=int(match["found"]))
    if match := _RELATION_LINE.fullmatch(line):
        found = tuple(r for r in RELATIONS if r in match["found"].split(", "))
        return Failure(
            FailureKind.RELATION,
            match["name"],
            relation=match["relation"],
            target=match["target"],
            found_relations=found,
        )
    if match := _TARGET_LINE.fullmatch(line):
        return Failure(FailureKind.NO_TARGET, match["name"], relation=match["relation"], target=match["target"])
    raise ValueError(f"not a reason of a check: {line!r}")
