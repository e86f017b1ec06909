"""Which corrector draws again. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from inference.flux.corrector import FluxCorrectorConfig
from inference.interfaces import Corrector, Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import chosen_kind, model_names, without_other_kinds


@dataclass(frozen=True)
class CorrectorConfig:
    """What draws again from a flawed image and a reflection. Only `kind` is loaded."""

    kind: Literal["flux"] = "flux"
    """flux: a LoRA on the search's own FLUX (ReflectionFlow §3.3)."""
    flux: FluxCorrectorConfig | None = field(default_factory=FluxCorrectorConfig)

    @property
    def names_a_model(self) -> bool:
        """Whether there is anything to load."""
        return bool(model_names(self.only_what_is_used()))

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of one image, on a generator that takes `generator_passes`."""
        return chosen_kind(self).passes(generator_passes)

    def only_what_is_used(self) -> CorrectorConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self, generator: Generator, journal: Journal | None = None) -> Corrector:
        """Load or reach it. generator: the search's, loaded: kinds that can draw with it share it. journal: for images
        of servers. MissingWeightsError; InputError for a generator that this kind can do nothing with."""
        return chosen_kind(self).open(generator, journal)
