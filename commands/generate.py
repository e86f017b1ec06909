"""`python -m inference generate "a photo of two red circles"`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from inference.flux.generator import FluxGeneratorConfig
from schemas.configuration import stable_seed
from schemas.errors import InputError
from schemas.images import encode_png


@dataclass(frozen=True)
class GenerateArgs:
    """Draw images of one prompt and write them as PNG."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What to draw."""
    num_images: int = 4
    """How many."""
    seed: int = 0
    """Seed of their noise."""
    out: Path = Path("images")
    """Folder to write to; image_0.png, image_1.png, ..."""
    generator: FluxGeneratorConfig = field(default_factory=FluxGeneratorConfig)


def main(argv: Sequence[str]) -> int:
    """0 when the images are written."""
    arguments = tyro.cli(GenerateArgs, args=list(argv), prog="python -m inference generate")
    if arguments.num_images < 1:
        raise InputError(f"{arguments.num_images} images", field="--num-images", expected="at least 1")
    if not arguments.prompt.strip():
        raise InputError("the prompt is empty", field="prompt", expected='for example "a photo of two red circles"')
    from inference.flux.generator import FluxGenerator

    started = time.perf_counter()
    config = replace(arguments.generator, batch_size=min(arguments.generator.batch_size, arguments.num_images))
    generator = FluxGenerator(config)
    loaded = time.perf_counter()
    seeds = [stable_seed(arguments.seed, arguments.prompt, i) for i in range(arguments.num_images)]
    images = generator.generate([arguments.prompt] * arguments.num_images, seeds)
    seconds = time.perf_counter() - loaded
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        path = arguments.out / f"image_{index}.png"
        path.write_bytes(encode_png(image))
        print(path)
    print(f"{len(images) / seconds:.1f} images/s, after {loaded - started:.1f} s of loading")
    return 0
