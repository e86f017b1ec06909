"""Which detector finds objects by name. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.grounding.grounding_dino import GroundingDinoConfig, GroundingDinoDetector
from inference.grounding.groundingdino_py import GroundingDinoPyDetector
from inference.interfaces import Detector
from schemas.configuration import chosen_kind, without_other_kinds


@dataclass(frozen=True)
class DetectorConfig:
    """Open-vocabulary detection. Only `kind` is loaded."""

    kind: Literal["dino"] = "dino"
    """dino: GroundingDINO, or MM-Grounding-DINO: the folder says which."""
    dino: GroundingDinoConfig | None = field(default_factory=GroundingDinoConfig)

    def only_what_is_used(self) -> DetectorConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Detector:
        """Load it. MissingWeightsError, InputError."""
        dino: GroundingDinoConfig = chosen_kind(self)
        return GroundingDinoDetector(dino) if dino.backend == "transformers" else GroundingDinoPyDetector(dino)
