"""Text to image by a server of OpenAI's image routes: vLLM-Omni, SGLang Diffusion, OpenAI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from inference.images_api.client import ImageRequest, ImagesClient
from inference.images_api.config import ImagesApiConfig
from inference.vlm.endpoint import Journal
from schemas.errors import InputError
from schemas.image_size import ImageSize


@dataclass(frozen=True)
class ImagesApiGeneratorConfig(ImagesApiConfig):
    """Which server draws (`/v1/images/generations`), and what it is told."""

    owner: ClassVar[str] = "generator.images-api"

    size_px: int = 1024
    """Height and width of an image, unless sizes are asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size_px < 1:
            self._refuse("size_px", "at least 1")

    @property
    def denoiser_passes_per_image(self) -> int:
        """Network forward passes for one image; 0 where the server's own steps are not known."""
        return self.passes_of(self.num_steps)

    @property
    def batch_size(self) -> int:
        """Images at once."""
        return self.concurrency

    @property
    def device(self) -> str:
        """On no device here."""
        return "elsewhere"

    def open(self, journal: Journal | None = None) -> ImagesApiGenerator:
        """Reach it. InputError without an address or a model, AccessError for a wrong key, OutageError where nobody
        answers."""
        self.require_server(f"--{self.owner}")
        client = ImagesClient(self, journal)
        client.check()
        return ImagesApiGenerator(self, client)


class ImagesApiGenerator:
    """See `inference.interfaces.Generator`. Images are the server's: the same request may give another one, so what was
    drawn is journalled."""

    def __init__(self, config: ImagesApiGeneratorConfig, client: ImagesClient) -> None:
        self.config, self._client = config, client

    def warm_up(self, sizes: Sequence[ImageSize] = ()) -> None:
        """Nothing: the server is warm, or not, and says itself which sizes it draws."""

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> list[np.ndarray]:
        """One image uint8 (H, W, 3) for each (prompt, seed). See `ImagesClient.draw` for what it raises."""
        return list(self.draw(prompts, seeds, sizes))

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sizes: Sequence[ImageSize] | None = None
    ) -> Iterator[np.ndarray]:
        """What `generate` gives, each image as soon as it is there."""
        wanted = [ImageSize.square(self.config.size_px)] * len(prompts) if sizes is None else sizes
        if not len(prompts) == len(seeds) == len(wanted):
            raise InputError(
                f"{len(prompts)} prompts, {len(seeds)} seeds, {len(wanted)} sizes", expected="one of each for an image"
            )
        yield from self._client.draw(list(map(ImageRequest, prompts, seeds, wanted)))
