"""What stands behind a flag in help: a word of what it takes, never Python's name of a type. What may be absent is
shown as what it is when it is there; `None` on a command line still says that it is absent."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

WORDS: dict[type, str] = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
NAMES: dict[str, str] = {
    "base_model": "MODEL",
    "base_url": "URL",
    "benchmark_metadata": "FILE",
    "data": "PLACE",
    "detailed_prompts": "FILE",
    "edits": "PLACE",
    "endpoint_model": "NAME",
    "export": "DIR",
    "fork": "DIR",
    "model": "MODEL",
    "official": "FILE",
    "prompts": "FILE",
    "run": "DIR",
    "vocabulary": "NAME|FILE",
}
"""By the flag's own name, where a word says more than its type does."""
_MAY_BE: dict[type, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    int: lambda value: type(value) is int,
    float: lambda value: type(value) in (int, float),
    Path: lambda value: isinstance(value, Path),
}
REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Text, numbers and paths."""
    kind = info.type
    if not isinstance(kind, type) or kind not in WORDS:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=WORDS[kind],
        instance_from_str=lambda words: kind(words[0]),
        is_instance=_MAY_BE[kind],
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.primitive_rule
def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """X | None of one kind X that is written on a command line."""
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if info.type_origin not in (Union, types.UnionType) or len(kinds) != 1 or len(get_args(info.type)) != 2:
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kinds[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec) or inner.nargs != 1:
        return None
    return replace(
        inner,
        instance_from_str=lambda words: None if words == ["None"] else inner.instance_from_str(words),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
        choices=None if inner.choices is None else (*inner.choices, "None"),
    )


def hint_of(name: str, annotation: Any, value: Any) -> Any:
    """How tyro is to show a flag, by its name, type and default; None where it does well by itself. Annotations that
    say it themselves are left alone."""
    kind, *extras = get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
    if any(hasattr(extra, "metavar") for extra in extras):
        return None
    several = get_args(kind)[0] if get_origin(kind) is tuple and Ellipsis in get_args(kind) else None
    word: str | None = NAMES.get(name) if str in (kind, *get_args(kind)) else None
    if tyro.conf.Positional in extras:
        word = name.upper().removesuffix("S") + (" ..." if several else "")
    elif get_origin(several) is Literal:
        word = "{" + ",".join(get_args(several)) + "} ..."
    unset = "(optional)" if value is None else None
    return tyro.conf.arg(metavar=word, help_behavior_hint=unset) if word or unset else None
