"""What measures how alike two images are. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.interfaces import Likeness
from inference.likeness.dino import DinoLikenessConfig
from inference.likeness.pixels import PixelLikenessConfig
from inference.rewards.clip_reward import ClipRewardConfig
from schemas.configuration import chosen_kind, without_other_kinds


@dataclass(frozen=True)
class LikenessConfig:
    """How alike two images are: 1 for equal ones, less for others. Only `kind` is loaded."""

    kind: Literal["pixels", "clip", "dino"] = "clip"
    """clip, dino: the cosine of the two images' features, so what is shown counts; pixels: one less the mean absolute
    difference, so where and in which colour it is shown counts, and no model is needed."""
    pixels: PixelLikenessConfig | None = field(default_factory=PixelLikenessConfig)
    clip: ClipRewardConfig | None = field(default_factory=ClipRewardConfig)
    dino: DinoLikenessConfig | None = field(default_factory=DinoLikenessConfig)

    def only_what_is_used(self) -> LikenessConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Likeness:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open()
