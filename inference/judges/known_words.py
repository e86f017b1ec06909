"""What a judge can tell apart, and so what it can judge at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import MissingWeightsError
from schemas.records import PromptRecord


@dataclass(frozen=True)
class UnknownWord:
    """A class or colour that a prompt asks for and a judge does not know. kind: class, color. field: where in the
    prompt's record, as "include[0].class"."""

    kind: str
    word: str
    field: str


@dataclass(frozen=True)
class KnownWords:
    """The class and colour names that whoever checks the images can tell apart; None: any. or_else: what somebody with
    other words may do, for people."""

    classes: frozenset[str] | None = None
    colors: frozenset[str] | None = None
    or_else: str = ""

    def unknown_in(self, prompt: PromptRecord) -> UnknownWord | None:
        """The first word of a prompt's clauses that is not known."""
        for place, clauses in (("include", prompt.include), ("exclude", prompt.exclude)):
            for index, clause in enumerate(clauses):
                asked = (("class", clause.class_name, self.classes), ("color", clause.color, self.colors))
                for kind, word, known in asked:
                    if word is not None and known is not None and word not in known:
                        return UnknownWord(kind, word, f"{place}[{index}].{kind}")
        return None


def labels_of(folder: Path) -> tuple[str, ...]:
    """The labels of a transformers model by its `config.json`, without its weights. MissingWeightsError."""
    try:
        labels = json.loads((folder / "config.json").read_text())["id2label"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingWeightsError(
            f"{folder} names no labels", expected="a model's config.json with id2label"
        ) from error
    return tuple(labels[number] for number in sorted(labels, key=int))
