"""What prompts are composed of: object classes with their plurals, colours, relations."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from inference.known_classes import EVERYDAY_FILE, KnownClasses, classes_named, known_classes
from inference.model_store import SHIPPED, shipped_package
from inference.requirements.clauses import MAX_OBJECTS_OF_A_CLASS
from schemas.atomic_file import write_whole
from schemas.errors import InputError
from schemas.foreign_json import (
    BadValue,
    check_choice,
    check_int,
    check_keys,
    check_text,
    near_matches,
    parse_json,
)
from schemas.named_file import MAX_TEXT_BYTES, read_file
from schemas.records import RELATIONS

EVERYDAY = "everyday"
SHIPPED_NAMES = (EVERYDAY, *SHIPPED)
PAIR_ARTICLE = "a pair of"

# Lower case, so that templates need no grammar; no "." or ",", which detectors take as separators of classes.
_NAME = re.compile(r"[a-z0-9][a-z0-9' \-]{0,39}")


@dataclass(frozen=True)
class ObjectClass:
    """A kind of object a detector can find.

    article: where "a" or "an" by the first letter is wrong ("a ukulele"), or "a pair of" for what comes in pairs (such
    classes are not counted). colorable: whether prompts may give it a colour (GenEval never colours a person).
    """

    name: str
    plural: str
    article: str | None = None
    colorable: bool = True


@dataclass(frozen=True)
class Vocabulary:
    """The words of composed prompts. Counts go from 2 to `max_count`; relations are among
    `schemas.records.RELATIONS`."""

    classes: tuple[ObjectClass, ...]
    colors: tuple[str, ...]
    relations: tuple[str, ...] = RELATIONS
    max_count: int = 4

    @property
    def class_names(self) -> frozenset[str]:
        """What `read_prompts` takes as known classes."""
        return frozenset(cls.name for cls in self.classes)

    @property
    def known(self) -> KnownClasses:
        """The nouns that a prompt may speak of: its own, and all that are known anyway."""
        return classes_named((cls.name, cls.plural) for cls in self.classes).beside(known_classes())


def check_name(value: object, field: str) -> str:
    """A class or colour name: lower-case letters, digits, spaces, hyphens, apostrophes. Raises BadValue otherwise."""
    name = check_text(value, field, 40)
    if _NAME.fullmatch(name) is None or "  " in name:
        raise BadValue(
            f"{name!r} is no usable name",
            field,
            "1 to 40 lower-case letters, digits, single spaces, hyphens, apostrophes",
        )
    return name


def parse_class(value: object, field: str) -> ObjectClass:
    """One element of `classes`: {"name", "plural", "article"?, "colorable"?}. Raises BadValue."""
    item = check_keys(value, field, ("name", "plural", "article", "colorable"))
    for key in ("name", "plural"):
        if key not in item:
            raise BadValue(f"a class has no {key}", f"{field}.{key}", 'as in {"name": "goose", "plural": "geese"}')
    article = item.get("article")
    if article is not None:
        article = check_choice(article, f"{field}.article", ("a", "an", PAIR_ARTICLE))
    if not isinstance(colorable := item.get("colorable", True), bool):
        raise BadValue(f"{colorable!r} is not allowed here", f"{field}.colorable", "true or false")
    name = check_name(item["name"], f"{field}.name")
    return ObjectClass(name, check_name(item["plural"], f"{field}.plural"), article, colorable)


def _unique(names: list[str], field: str) -> None:
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name in first:
            raise BadValue(
                f"{name!r} is also {field}[{first[name]}]",
                f"{field}[{position}]",
                "each name once in the vocabulary",
            )
        first[name] = position


def _list(value: object, field: str, at_least: int) -> list[object]:
    if not isinstance(value, list) or len(value) < at_least:
        raise BadValue(f"{field} is missing or too short", field, f"a list of at least {at_least}")
    return value


def _parse_vocabulary(value: object) -> Vocabulary:
    item = check_keys(value, "(the whole file)", ("classes", "colors", "relations", "max_count"))
    classes = tuple(
        parse_class(entry, f"classes[{i}]") for i, entry in enumerate(_list(item.get("classes"), "classes", 2))
    )
    _unique([cls.name for cls in classes], "classes")
    colors = [check_name(entry, f"colors[{i}]") for i, entry in enumerate(_list(item.get("colors"), "colors", 2))]
    _unique(colors, "colors")
    relations = [
        check_choice(entry, f"relations[{i}]", RELATIONS)
        for i, entry in enumerate(_list(item.get("relations", list(RELATIONS)), "relations", 1))
    ]
    _unique(relations, "relations")
    max_count = check_int(item.get("max_count", 4), "max_count", 2, MAX_OBJECTS_OF_A_CLASS)
    return Vocabulary(classes, tuple(colors), tuple(relations), max_count)


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """A shipped vocabulary by name ("everyday": what open-vocabulary detectors find; a shipped world's own, by the
    world's name), or a JSON file of the same form. Raises InputError with file and field."""
    if name_or_path == EVERYDAY:
        path = EVERYDAY_FILE
    elif name_or_path in SHIPPED:
        path = shipped_package(str(name_or_path)) / "vocabulary.json"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            hint = near_matches(str(name_or_path), SHIPPED_NAMES)
            raise InputError(
                f"no such vocabulary{hint}",
                file=str(path),
                field="vocabulary",
                expected=f"{' or '.join(SHIPPED_NAMES)}, or the path of a JSON file",
            )
    try:
        return _parse_vocabulary(parse_json(read_file(path, MAX_TEXT_BYTES, "a JSON file").decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise InputError(f"not valid UTF-8 (byte {error.start})", file=str(path), expected="a JSON file") from None
    except BadValue as bad:
        raise InputError(bad.problem, file=str(path), field=bad.field, expected=bad.expected) from None


def save_vocabulary(vocabulary: Vocabulary, path: str | Path) -> None:
    """Write what `load_vocabulary` reads; a reader sees the old file or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, vocabulary_text(vocabulary))


def vocabulary_text(vocabulary: Vocabulary) -> str:
    """What `load_vocabulary` reads, a class a line."""

    def entry(cls: ObjectClass) -> str:
        article = {} if cls.article is None else {"article": cls.article}
        colorable = {} if cls.colorable else {"colorable": False}
        return json.dumps({"name": cls.name, "plural": cls.plural, **article, **colorable}, ensure_ascii=False)

    classes = ",\n    ".join(entry(cls) for cls in vocabulary.classes)
    return (
        f'{{\n  "classes": [\n    {classes}\n  ],\n'
        f'  "colors": {json.dumps(list(vocabulary.colors))},\n'
        f'  "relations": {json.dumps(list(vocabulary.relations))},\n'
        f'  "max_count": {vocabulary.max_count}\n}}\n'
    )
