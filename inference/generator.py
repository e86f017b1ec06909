"""Which generator draws. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from inference.flux.generator import FluxGeneratorConfig
from inference.generators.diffusers_generator import DiffusersGeneratorConfig
from inference.images_api.generator import ImagesApiGeneratorConfig
from inference.interfaces import Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, chosen_kind, stable_seed, without_other_kinds
from schemas.errors import InputError
from schemas.image_size import ImageSize


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
    def size_px(self) -> int:
        """Height and width of an image, unless sizes are asked for."""
        ...

    @property
    def batch_size(self) -> int:
        """Images at once."""
        ...

    @property
    def device(self) -> str:
        """Where it draws: cpu, cuda, cuda:1; elsewhere: on no device of ours."""
        ...

    def open(self, journal: Journal | None = None) -> Generator:
        """Load or reach it. journal: for images of servers. MissingWeightsError, InputError."""
        ...


@dataclass(frozen=True)
class GeneratorConfig:
    """A generator of images from text. Only `kind` is loaded."""

    kind: Literal["flux", "diffusers", "images-api"] = "flux"
    """flux: a `diffusers.FluxPipeline` (FLUX.1-dev, -schnell, or one of their architecture), the fast way. diffusers:
    any text-to-image pipeline of diffusers, by its folder's class. images-api: a server of OpenAI's image routes
    (vLLM-Omni, SGLang Diffusion, OpenAI)."""
    flux: FluxGeneratorConfig | None = field(default_factory=FluxGeneratorConfig)
    diffusers: DiffusersGeneratorConfig | None = added_field(None)
    images_api: ImagesApiGeneratorConfig | None = added_field(None)
    sizes: tuple[str, ...] = added_field(())
    """Sizes to draw at, such as 1024x1024 1152x896 896x1152 (width first): each prompt gets one, by the seed. Empty:
    the kind's own square."""

    def __post_init__(self) -> None:
        parsed = [ImageSize.parse(size, "generator.sizes") for size in self.sizes]
        if len(set(parsed)) < len(parsed):
            raise InputError(f"sizes {' '.join(self.sizes)}", field="generator.sizes", expected="each once")

    @property
    def all_sizes(self) -> tuple[ImageSize, ...]:
        """Every size that it draws at."""
        return tuple(map(ImageSize.parse, self.sizes)) or (ImageSize.square(self.chosen.size_px),)

    def size_of(self, *key: Any) -> ImageSize | None:
        """The size of what has this key (run seed, prompt id); None where there are no sizes to choose from."""
        if not self.sizes:
            return None
        return self.all_sizes[stable_seed("size", *key) % len(self.sizes)]

    def check_sizes(self) -> None:
        """InputError for a size that is known not to be drawn, before anything is loaded. Kinds whose files do not tell
        say so when they are opened."""
        if self.sizes and isinstance(self.chosen, FluxGeneratorConfig):
            self.chosen.check_sizes(self.all_sizes)

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

    @property
    def is_elsewhere(self) -> bool:
        """Whether a server draws, so that nothing is loaded here."""
        return self.device == "elsewhere"

    def with_batch_size(self, images: int) -> GeneratorConfig:
        """The same, so many images at once; a server has its own."""
        chosen: Any = self.chosen
        if self.is_elsewhere:
            return self
        return replace(self, **{self.kind.replace("-", "_"): replace(chosen, batch_size=images)})

    def only_what_is_used(self) -> GeneratorConfig:
        """Without the other kinds. InputError for a kind whose model is not named, or is no pipeline's folder."""
        if isinstance(self.chosen, DiffusersGeneratorConfig):
            _ = self.chosen.planned
        return without_other_kinds(self)

    def open(self, journal: Journal | None = None) -> Generator:
        """Load or reach it. journal: for images of servers. MissingWeightsError, InputError."""
        return self.chosen.open(journal)
