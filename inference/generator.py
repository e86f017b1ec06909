"""Which generator draws. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from inference.flux.generator import FluxGeneratorConfig
from inference.interfaces import Generator
from schemas.configuration import chosen_kind, without_other_kinds


class DrawsImages(Protocol):
    """What a kind's configuration must have: what whoever plans, counts and batches needs to know of it."""

    @property
    def num_steps(self) -> int:
        """Denoising steps an image, as the dataset records them."""
        ...

    @property
    def denoiser_passes_per_image(self) -> int:
        """Network forward passes for one image."""
        ...

    @property
    def batch_size(self) -> int:
        """Images at once."""
        ...

    @property
    def device(self) -> str:
        """Where it draws: cpu, cuda, cuda:1."""
        ...

    def open(self) -> Generator:
        """Load it. MissingWeightsError, InputError."""
        ...


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator of images from text. Only `kind` is loaded."""

    kind: Literal["flux"] = "flux"
    """flux: a `diffusers.FluxPipeline` (FLUX.1-dev, -schnell, or one of their architecture)."""
    flux: FluxGeneratorConfig | None = field(default_factory=FluxGeneratorConfig)

    @property
    def chosen(self) -> DrawsImages:
        """The configuration of `kind`. InputError where there is none."""
        return chosen_kind(self)

    @property
    def num_steps(self) -> int:
        """Denoising steps an image."""
        return self.chosen.num_steps

    @property
    def denoiser_passes_per_image(self) -> int:
        """Network forward passes for one image."""
        return self.chosen.denoiser_passes_per_image

    @property
    def batch_size(self) -> int:
        """Images at once."""
        return self.chosen.batch_size

    @property
    def device(self) -> str:
        """Where it draws."""
        return self.chosen.device

    def with_batch_size(self, images: int) -> GeneratorConfig:
        """The same, so many images at once."""
        chosen: Any = self.chosen
        return replace(self, **{self.kind.replace("-", "_"): replace(chosen, batch_size=images)})

    def only_what_is_used(self) -> GeneratorConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def open(self) -> Generator:
        """Load it. MissingWeightsError, InputError."""
        return self.chosen.open()
