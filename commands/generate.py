"""`python -m inference generate "a photo of two red circles"`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from commands.made_by import RECORD, MadeBy
from commands.quoted import known_prompt, one_prompt
from inference.generator import GeneratorConfig
from inference.model_store import require_models
from recipes import catalogue
from schemas.configuration import model_names, stable_seed
from schemas.errors import InputError
from schemas.new_file import new_folder, short_name, write_new
from schemas.telling import loading
from schemas.terminal import say

IMAGES = Path("images")
"""Where a call without --out makes its folder; git ignores it."""


@dataclass(frozen=True)
class GenerateArgs:
    """Draw images of one prompt and write them as PNG."""

    prompt: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to draw: one text, in quotes."""
    num_images: int = 4
    """How many."""
    seed: int = 0
    """Seed of their noise."""
    out: Path | None = None
    """Folder to write to, a new or an empty one: image_0.png, image_1.png, ..., and made_by.json, which says how they
    were made; without it, a new folder in images/, named after the prompt."""
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
    with new_folder(arguments.out, IMAGES, short_name(prompt, "image")) as folder:
        require_models(model_names(config))
        config.check_sizes()
        _draw(prompt, arguments, config, folder, MadeBy.of("generate", argv, arguments.preset, config))
    return 0


def _draw(prompt: str, arguments: GenerateArgs, config: GeneratorConfig, folder: Path, made_by: MadeBy) -> None:
    started = time.perf_counter()
    with loading(model_names(config), "nothing: a server draws"):
        generator = config.with_batch_size(min(config.batch_size, arguments.num_images)).open()
    loaded = time.perf_counter()
    seeds = [stable_seed(arguments.seed, prompt, i) for i in range(arguments.num_images)]
    size = config.size_of(arguments.seed, prompt)
    sizes = [size] * arguments.num_images if size else None
    images = generator.draw([prompt] * arguments.num_images, seeds, sizes)
    drawn = []
    for index, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        path = folder / f"image_{index}.png"
        write_new(path, made_by.png(image, prompt, arguments.seed, number=index, noise_seed=seed), "--out")
        height, width = image.shape[:2]
        drawn.append({"file": path.name, "noise_seed": seed, "width_px": width, "height_px": height})
        say(path)
    record = made_by.record(prompt=prompt, seed=arguments.seed, images=drawn)
    write_new(folder / RECORD, record, "--out")
    seconds = time.perf_counter() - loaded
    say(f"{arguments.num_images / seconds:.1f} images/s, after {loaded - started:.1f} s of loading")
