"""What names the colour of a masked object. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.grounding.clip_color import ClipColorConfig
from inference.grounding.pixel_color import PixelColorConfig
from inference.interfaces import ColorNamer
from schemas.configuration import chosen_kind, without_other_kinds


@dataclass(frozen=True)
class ColorNamerConfig:
    """Colour words for objects. Only `kind` is loaded."""

    kind: Literal["clip", "pixels"] = "clip"
    """clip: GenEval's way, zero-shot on the masked crop; pixels: the palette's colour that is nearest to the object's
    median pixel."""
    clip: ClipColorConfig | None = field(default_factory=ClipColorConfig)
    pixels: PixelColorConfig | None = field(default_factory=PixelColorConfig)

    def only_what_is_used(self) -> ColorNamerConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> ColorNamer:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()
