"""Which nouns name a class of objects: COCO's, the everyday vocabulary's, a shipped world's, and a user's own. A prompt
is read as GenEval's are where it speaks of these alone; of anything else nobody knows whether it is one object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from inference.model_store import SHIPPED, shipped_package
from schemas.errors import MissingWeightsError

EVERYDAY_FILE = Path(__file__).parent / "everyday_vocabulary.json"
OF_COCO_ALONE = ("broccoli",)
"""Of the 80 classes that GenEval asks for; the everyday vocabulary has the others, and leaves out what is not
counted."""
_IRREGULAR = {"people": "person", "knives": "knife", "mice": "mouse", "buses": "bus"}
_IRREGULAR |= {name: name for name in ("sheep", "skis", "scissors")}


@dataclass(frozen=True)
class KnownClasses:
    """names: in the singular, lower case. plurals: what several of a class are called -> its name."""

    names: frozenset[str]
    plurals: Mapping[str, str] = field(default_factory=dict)

    def of_one(self, noun: str) -> str | None:
        """The class that a noun in the singular names; None for anything else."""
        return noun if noun in self.names else None

    def of_several(self, noun: str) -> str | None:
        """The class that a noun in the plural names, also where GenEval writes it by a rule of its own ("two
        toothbrushs")."""
        named = self.plurals.get(noun)
        return named if named is not None else self.of_one(_singular(noun))

    def beside(self, more: KnownClasses) -> KnownClasses:
        """Both together."""
        return KnownClasses(self.names | more.names, {**more.plurals, **self.plurals})


def classes_named(entries: Iterable[tuple[str, str]]) -> KnownClasses:
    """Of (name, plural) of each class."""
    both = list(entries)
    return KnownClasses(frozenset(name for name, _ in both), {plural: name for name, plural in both})


@cache
def known_classes() -> KnownClasses:
    """COCO's, the everyday vocabulary's, and those of the worlds that are installed."""
    found = KnownClasses(frozenset(OF_COCO_ALONE)).beside(_classes_of(EVERYDAY_FILE))
    for world in SHIPPED:
        try:
            found = found.beside(_classes_of(shipped_package(world) / "vocabulary.json"))
        except MissingWeightsError:
            continue
    return found


def _classes_of(vocabulary: Path) -> KnownClasses:
    """Of a shipped vocabulary."""
    entries = json.loads(vocabulary.read_text("utf-8"))["classes"]
    return classes_named((entry["name"], entry["plural"]) for entry in entries)


def _singular(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith(("sses", "shes", "ches", "xes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith("ss"):
        last = last[:-1]
    return f"{head} {last}".strip()
