"""Which generator a distillation teaches, and how it draws: FLUX or Sana, behind one Protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from inference.flux.generator import FluxGeneratorConfig
from schemas.configuration import chosen_kind, without_other_kinds
from schemas.errors import InputError
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
    def drawn_by(self) -> str:
        """Kind of generator (`inference.generator`) that draws with the LoRA."""
        return "flux" if self.kind == "flux" else "diffusers"

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Layers that get a LoRA where nobody says which."""
        return (flux_denoiser if self.kind == "flux" else sana_denoiser).LORA_TARGETS

    def check_teachable(self) -> None:
        """InputError for weights that a LoRA cannot be trained on: of fused layers a part would get none, of 8-bit ones
        there is no gradient, and offloaded ones are gone when the gradient comes back."""
        used = self.used
        asked = {name: getattr(used, name, "none") for name in ("compile", "quantization", "offload")}
        wrong = [name for name, value in asked.items() if value != "none"]
        if wrong:
            raise InputError(
                f"a LoRA is not trained with {' and '.join(f'{name} {asked[name]!r}' for name in wrong)}",
                field=f"generator.{self.kind}.{wrong[0]}",
                expected="none; to save memory: gradient_checkpointing, vae_checkpointing, text_encoders_wait",
            )

    def open(self) -> Denoiser:
        """Loads it. MissingWeightsError where the model is not on this machine."""
        used = self.used
        if isinstance(used, SanaConfig):
            return sana_denoiser.SanaDenoiser(used)
        return flux_denoiser.FluxDenoiser(used.open())
