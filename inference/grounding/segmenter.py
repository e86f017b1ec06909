"""Which segmenter turns boxes into masks. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.grounding.sam import SamConfig
from inference.grounding.sam2 import Sam2Config, Sam3Config
from inference.interfaces import Segmenter
from schemas.configuration import added_field, chosen_kind, without_other_kinds


@dataclass(frozen=True)
class SegmenterConfig:
    """Boxes to masks. Only `kind` is loaded."""

    kind: Literal["sam", "sam2", "sam3"] = "sam"
    """sam: segment-anything; sam2, sam3: its successors, in transformers' classes."""
    sam: SamConfig | None = field(default_factory=SamConfig)
    sam2: Sam2Config | None = added_field(None)
    sam3: Sam3Config | None = added_field(None)

    def only_what_is_used(self) -> SegmenterConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Segmenter:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()
