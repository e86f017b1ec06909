"""`python -m inference generate "a photo of two red circles"`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.quoted import known_prompt, one_prompt
from inference.generator import GeneratorConfig
from inference.model_store import require_models
from recipes import catalogue
from schemas.configuration import model_names, stable_seed
from schemas.errors import InputError
from schemas.images import encode_png
from schemas.telling import telling
from schemas.terminal import say


@dataclass(frozen=True)
class GenerateArgs:
    """Draw images of one prompt and write them as PNG."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to draw: one text, in quotes."""
    num_images: int = 4
    """How many."""
    seed: int = 0
    """Seed of their noise."""
    out: Path = Path("images")
    """Folder to write to; image_0.png, image_1.png, ..."""
    preset: Preset = field(default_factory=catalogue.default)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


def default_arguments(preset: str) -> GenerateArgs:
    """What a preset says."""
    return GenerateArgs(prompt=tyro.MISSING, preset=preset, generator=catalogue.load(preset, "generator"))


def main(argv: Sequence[str]) -> int:
    """0 when the images are written."""
    arguments = parse_with_preset(GenerateArgs, argv, "generate", default_arguments, "inference")
    if arguments.num_images < 1:
        raise InputError(f"{arguments.num_images} images", field="--num-images", expected="at least 1")
    config = arguments.generator.only_what_is_used()
    prompt = known_prompt(one_prompt(arguments.prompt), model_names(config))
    require_models(model_names(config))
    config.check_sizes()
    started = time.perf_counter()
    with telling(f"loading {', '.join(model_names(config)) or 'nothing: a server draws'}"):
        generator = config.with_batch_size(min(config.batch_size, arguments.num_images)).open()
    loaded = time.perf_counter()
    seeds = [stable_seed(arguments.seed, prompt, i) for i in range(arguments.num_images)]
    size = config.size_of(arguments.seed, prompt)
    sizes = [size] * arguments.num_images if size else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(generator.draw([prompt] * arguments.num_images, seeds, sizes)):
        path = arguments.out / f"image_{index}.png"
        path.write_bytes(encode_png(image))
        say(path)
    seconds = time.perf_counter() - loaded
    say(f"{arguments.num_images / seconds:.1f} images/s, after {loaded - started:.1f} s of loading")
    return 0
