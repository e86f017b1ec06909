"""Which segmenter turns boxes into masks. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.grounding.sam import SamConfig
from inference.interfaces import Segmenter
from schemas.configuration import chosen_kind, without_other_kinds


@dataclass(frozen=True)
class SegmenterConfig:
    """Boxes to masks. Only `kind` is loaded."""

    kind: Literal["sam"] = "sam"
    """sam: segment-anything."""
    sam: SamConfig | None = field(default_factory=SamConfig)

    def only_what_is_used(self) -> SegmenterConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Segmenter:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()
