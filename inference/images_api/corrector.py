"""A flawed image drawn again by a server that edits (`/v1/images/edits`), told what the reflection says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from inference.editors.instruction import instruction_of, load_template
from inference.images_api.client import ImageRequest, ImagesClient
from inference.images_api.config import ImagesApiConfig
from inference.images_api.generator import ImagesApiGenerator, ImagesApiGeneratorConfig
from inference.interfaces import Generator
from inference.vlm.endpoint import Journal
from schemas.configuration import template_field
from schemas.errors import InputError
from schemas.image_size import ImageSize


@dataclass(frozen=True)
class ImagesApiCorrectorConfig(ImagesApiConfig):
    """Which server edits. Without an address it is the generator's server, and without a model its model."""

    owner: ClassVar[str] = "corrector.images-api"

    template: str = template_field("edit")
    """What the server is told: edit (the reflection as an instruction), edit_with_prompt, or a text file with
    {reflection} and perhaps {prompt}."""

    def passes(self, generator_passes: int) -> int:
        """Denoiser passes of one image; those of the generator where the server's own steps are not known."""
        return self.passes_of(self.num_steps or generator_passes)

    def reached(self, generator: Any) -> ImagesApiCorrectorConfig:
        """With what it takes over of the generator's configuration: how a server is reached where no address of its own
        is named, and the model where none is. InputError, where the generator is no server."""
        own_address, own_model = bool(self.base_url.strip()), bool(self.model.strip())
        if own_address and own_model:
            return self
        if not isinstance(generator, ImagesApiGeneratorConfig):
            raise InputError(
                "which server corrects? The generator is none",
                field=f"--{self.owner}.base-url, --{self.owner}.model",
                expected="a server that edits and its model, or a generator of kind images-api that does both",
            )
        address = {name: getattr(generator, name) for name in ("base_url", "api_key_env", "headers")}
        found = self if own_address else replace(self, **address)
        return found if own_model else replace(found, model=generator.model)

    def open(self, generator: Generator, journal: Journal | None = None) -> ImagesApiCorrector:
        """Reach it. InputError without an address or a model, AccessError for a wrong key, OutageError where nobody
        answers."""
        known = generator.config if isinstance(generator, ImagesApiGenerator) else None
        config = self.reached(known)
        config.require_server(f"--{self.owner}")
        template = load_template(config.template)
        client = ImagesClient(config, journal)
        client.check()
        return ImagesApiCorrector(client, template)


class ImagesApiCorrector:
    """See `inference.interfaces.Corrector`. An image keeps the flawed one's size."""

    def __init__(self, client: ImagesClient, template: str) -> None:
        self._client, self._template = client, template

    def correct(
        self,
        images: Sequence[np.ndarray],
        prompts: Sequence[str],
        reflections: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray]:
        """images uint8 (H, W, 3), the flawed ones -> as many of the same sizes. See `ImagesClient.draw` for what it
        raises."""
        told = [instruction_of(self._template, *said) for said in zip(prompts, reflections, strict=True)]
        asked = zip(told, seeds, images, strict=True)
        return list(self._client.draw([ImageRequest(text, seed, ImageSize.of(one), one) for text, seed, one in asked]))
