"""Hypothesis strategies for records, derived from their field annotations as the Arrow schema is."""

import dataclasses
import types
import typing
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from schemas.images import sha256
from schemas.records import PromptRow

_SCALARS = {
    str: st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
}


def values(annotation: Any) -> Any:
    """Any value that a field of this annotation may hold."""
    if isinstance(annotation, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(annotation) if arg is not type(None))
        return st.none() | values(inner)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        hints = typing.get_type_hints(annotation)
        return st.builds(annotation, **{f.name: values(hints[f.name]) for f in dataclasses.fields(annotation)})
    if typing.get_origin(annotation) is tuple:
        return st.lists(values(typing.get_args(annotation)[0]), max_size=2).map(tuple)
    return _SCALARS[annotation]


def _consistent(row: PromptRow) -> PromptRow:
    """Candidates numbered, images with their own hash: what every stage sees to."""
    candidates = tuple(
        replace(c, index=index, image_sha256=sha256(c.image) if c.image is not None else c.image_sha256)
        for index, c in enumerate(row.candidates)
    )
    # Sums of these must fit the footer's int64, as real counts do.
    cost = type(row.cost)(**{name: value % 2**32 for name, value in vars(row.cost).items()})
    return replace(row, candidates=candidates, cost=cost)


prompt_rows = values(PromptRow).map(_consistent)
