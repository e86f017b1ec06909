"""Which critic says what is wrong with an image. A new kind is a file with its configuration and class, and a field
here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from inference.requirements.atom_critic import AtomCritic, AtomCriticConfig
from inference.search import Critic
from inference.vlm.critic import VlmCriticConfig
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from schemas.configuration import added_field, chosen_kind
from schemas.errors import InputError


@dataclass(frozen=True)
class CriticConfig:
    """Reflector and prompt refiner of a search. Only `kind` is loaded."""

    kind: Literal["vlm", "atoms"] = "vlm"
    """vlm: a VLM is asked in free words. atoms: what the verifier of that kind found to fail is said; only where it
    does not know, and for refined prompts, the VLM of `vlm` is asked."""
    vlm: VlmCriticConfig | None = field(default_factory=VlmCriticConfig)
    atoms: AtomCriticConfig | None = added_field(None)

    def only_what_is_used(self, vlm: VlmConfig) -> CriticConfig:
        """Without the other kinds; `vlm` is who is asked where no other is named. InputError."""
        asking = self._asking
        atoms = chosen_kind(self) if self.kind == "atoms" else None
        return CriticConfig(self.kind, replace(asking, vlm=asking.vlm or vlm), atoms)

    def writer(self, vlm: VlmConfig) -> str:
        """Who writes the reflections, where `vlm` is who is asked unless another is named."""
        asked = self.only_what_is_used(vlm)._asking.writer
        return f"atoms, else {asked}" if self.kind == "atoms" else asked

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask VLMs elsewhere."""
        return all(vlm.is_elsewhere for vlm in self._asking.asked)

    @property
    def _asking(self) -> VlmCriticConfig:
        if self.vlm is None:
            raise InputError(f"critic {self.kind!r} without a VLM", field="critic.vlm", expected="who is asked")
        return self.vlm

    def open(self, journal: Journal | None = None) -> Critic:
        """Load it. MissingWeightsError, InputError."""
        asking = self._asking.open(journal)
        return AtomCritic(chosen_kind(self), asking) if self.kind == "atoms" else asking
