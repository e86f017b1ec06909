"""Which generator a distillation teaches, and how it draws: FLUX or Sana, behind one Protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from inference.flux.generator import FluxGeneratorConfig
from schemas.configuration import chosen_kind, without_other_kinds
from trainers import flux_denoiser, sana_denoiser
from trainers.sana_denoiser import SanaConfig

if TYPE_CHECKING:
    from trainers.denoiser import Denoiser


@dataclass(frozen=True)
class DenoiserConfig:
    """Only `kind` is loaded; the other one's settings change nothing."""

    kind: Literal["flux", "sana"] = "flux"
    """Which generator is taught."""
    flux: FluxGeneratorConfig | None = field(default_factory=FluxGeneratorConfig)
    sana: SanaConfig | None = field(default_factory=SanaConfig)

    def only_what_is_used(self) -> DenoiserConfig:
        """Without the other kind."""
        return without_other_kinds(self)

    @property
    def used(self) -> FluxGeneratorConfig | SanaConfig:
        """The kind's own settings. InputError where there are none."""
        return chosen_kind(self)

    @property
    def model(self) -> str:
        return self.used.model

    @property
    def num_steps(self) -> int:
        return self.used.num_steps

    @property
    def size_px(self) -> int:
        return self.used.size_px

    @property
    def batch_size(self) -> int:
        return self.used.batch_size

    @property
    def device(self) -> str:
        return self.used.device

    @property
    def pipeline(self) -> str:
        """Name of the diffusers pipeline that loads the LoRA."""
        return "FluxPipeline" if self.kind == "flux" else "SanaPipeline"

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Layers that get a LoRA where nobody says which."""
        return (flux_denoiser if self.kind == "flux" else sana_denoiser).LORA_TARGETS

    def open(self) -> Denoiser:
        """Loads it. MissingWeightsError where the model is not on this machine."""
        used = self.used
        if isinstance(used, SanaConfig):
            return sana_denoiser.SanaDenoiser(used)
        return flux_denoiser.FluxDenoiser(used.open())
