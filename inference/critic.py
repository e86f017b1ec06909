"""Which critic says what is wrong with an image. A new kind is a file with its configuration and class, and a field
here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from inference.search import Critic
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from schemas.configuration import chosen_kind, without_other_kinds


@dataclass(frozen=True)
class CriticConfig:
    """Reflector and prompt refiner of a search. Only `kind` is loaded."""

    kind: Literal["vlm"] = "vlm"
    """vlm: a VLM is asked in free words."""
    vlm: VlmCriticConfig | None = field(default_factory=VlmCriticConfig)

    def only_what_is_used(self, vlm: VlmConfig) -> CriticConfig:
        """Without the other kinds; `vlm` is who is asked where no other is named."""
        used = without_other_kinds(self)
        return replace(used, vlm=replace(used.vlm, vlm=used.vlm.vlm or vlm)) if used.vlm else used

    def writer(self, vlm: VlmConfig) -> str:
        """Who writes the reflections, where `vlm` is who is asked unless another is named."""
        return chosen_kind(self.only_what_is_used(vlm)).writer

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask VLMs elsewhere."""
        return all(vlm.is_elsewhere for vlm in chosen_kind(self).asked)

    def open(self, journal: Journal | None = None) -> Critic:
        """Load it. MissingWeightsError, InputError."""
        return chosen_kind(self).open(journal)
