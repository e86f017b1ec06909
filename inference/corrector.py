"""Which corrector draws again. A new kind is a file with its configuration and class, and a field here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from inference.editors.editor import EditorCorrectorConfig
from inference.flux.corrector import FluxCorrectorConfig
from inference.generator import GeneratorConfig
from inference.images_api.corrector import ImagesApiCorrectorConfig
from inference.interfaces import Corrector, Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import added_field, chosen_kind, model_names, without_other_kinds
from schemas.errors import InputError


@dataclass(frozen=True)
class CorrectorConfig:
    """What draws again from a flawed image and a reflection. Only `kind` is loaded."""

    kind: Literal["flux", "editor", "images-api"] = "flux"
    """flux: a LoRA on the search's own FLUX (ReflectionFlow §3.3). editor: an editing pipeline of diffusers, beside any
    generator; no training. images-api: a server that edits, told what the reflection says."""
    flux: FluxCorrectorConfig | None = field(default_factory=FluxCorrectorConfig)
    editor: EditorCorrectorConfig | None = added_field(None)
    images_api: ImagesApiCorrectorConfig | None = added_field(None)

    @property
    def names_a_model(self) -> bool:
        """Whether there is anything to load or to reach."""
        return self.is_elsewhere or bool(model_names(self.only_what_is_used()))

    @property
    def is_elsewhere(self) -> bool:
        """Whether a server draws, so that nothing is loaded here."""
        return self.kind == "images-api"

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of one image, on a generator that takes `generator_passes`."""
        return chosen_kind(self).passes(generator_passes)

    def only_what_is_used(self) -> CorrectorConfig:
        """Without the other kinds."""
        return without_other_kinds(self)

    def beside(self, generator: GeneratorConfig) -> CorrectorConfig:
        """Without the other kinds, and with what an editor takes from the generator. InputError for a generator that
        this kind can do nothing with, said before anything is loaded."""
        used = self.only_what_is_used()
        if used.flux is not None and generator.kind != "flux":
            raise InputError(
                f"a corrector of kind 'flux' beside a generator of kind {generator.kind!r}: its LoRA draws with FLUX",
                field="--tools.corrector.kind",
                expected="editor or images-api, or a generator of kind flux",
            )
        if used.images_api is not None:
            used.images_api.reached(generator.chosen)
        return used if used.editor is None else replace(used, editor=used.editor.beside(generator.chosen))

    def open(self, generator: Generator, journal: Journal | None = None) -> Corrector:
        """Load or reach it. generator: the search's, loaded: kinds that can draw with it share it. journal: for images
        of servers. MissingWeightsError; InputError for a generator that this kind can do nothing with."""
        return chosen_kind(self).open(generator, journal)
