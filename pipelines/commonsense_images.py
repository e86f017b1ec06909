"""CommonsenseT2I's images, drawn: each prompt of each pair, as it stands and expanded, by the generator as it is and
with what was distilled. What is there is not drawn again.

    images/<row>/drawn.json                           by what the images are known; another generator is refused
    images/<row>/prompt1_img/original/0001-1.png      each image as soon as it is drawn
    expanded.jsonl                                    prompt1, prompt2, expanded1, expanded2
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference.flux.lora import WEIGHTS
from inference.generator import GeneratorConfig
from inference.interfaces import Generator
from inference.judges.commonsense_data import EXPANDED_FIELDS, FIELDS
from inference.judges.commonsense_t2i import CommonsensePair
from inference.model_store import model_digest
from inference.vlm.endpoint import Journal
from pipelines.commonsense_t2i import SIDES, Condition, image_path
from pipelines.runtime.progress import DoneOf
from schemas.atomic_file import write_whole
from schemas.configuration import content_key, model_names, output_config, stable_seed
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.images import encode_png
from schemas.telling import loading
from schemas.terminal import say
from trainers.concept_card import CARD

DRAWN = "drawn.json"
EXPANDED = "expanded.jsonl"
_MAX_NAMED = 20
_AT_ONCE = 64
Loras = list[tuple[str, str]]
"""Of each pair, the folder of each prompt's LoRA; "" for none."""


@dataclass(frozen=True)
class Drawn:
    """A row of the table that is to be drawn."""

    condition: Condition
    prompts: list[tuple[str, str]]
    loras: Loras


@dataclass(frozen=True)
class _Image:
    path: Path
    prompt: str
    seed: int
    size: ImageSize | None
    lora: str


def conditions(
    images: Path,
    pairs: Sequence[CommonsensePair],
    expanded: Sequence[tuple[str, str]] | None,
    distilled: Path | None,
) -> list[Drawn]:
    """The rows: base prompts, expanded ones, and each with what was distilled. InputError, see `loras_of`."""
    base = [pair.prompts for pair in pairs]
    kinds = {"base": base} | ({"expanded": list(expanded)} if expanded is not None else {})
    found = []
    for name, prompts in kinds.items():
        against = None if name == "base" else "base"
        none = [("", "")] * len(pairs)
        found.append(Drawn(Condition(name, images / name, prompts, against), prompts, none))
        if distilled is not None:
            taught = f"{name}+distilled"
            row = Condition(taught, images / taught, prompts, name)
            found.append(Drawn(row, prompts, loras_of(distilled, prompts, base)))
    return found


def loras_of(folder: Path, prompts: Sequence[tuple[str, str]], base: Sequence[tuple[str, str]]) -> Loras:
    """The LoRA of each prompt: the one that the folder is; or of a folder that `distill` wrote the one that was taught
    this prompt, or else the base prompt, which an expanded one lays more words on. InputError that names the prompts
    without one."""
    if (folder / WEIGHTS).is_file():
        return [(str(folder), str(folder))] * len(prompts)
    if not folder.is_dir():
        raise InputError("no folder", file=str(folder), field="--distilled", expected="a LoRA's, or that of `distill`")
    taught: dict[str, str] = {}
    for card in sorted(folder.glob(f"*/{CARD}")):
        if not (card.parent / WEIGHTS).is_file():
            continue
        try:
            said = json.loads(card.read_text("utf-8"))
            prompt = _plain(said["prompt"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError("is no concept's card", file=str(card), field="--distilled") from None
        if prompt in taught:
            problem = f"{taught[prompt]} was taught {prompt!r}, too"
            raise InputError(problem, file=str(card.parent), field="--distilled", expected="one concept a prompt")
        taught[prompt] = str(card.parent)
    found = [
        tuple(taught.get(_plain(mine), taught.get(_plain(plain), "")) for mine, plain in zip(both, bases, strict=True))
        for both, bases in zip(prompts, base, strict=True)
    ]
    missing = [base[i][side] for i, both in enumerate(found) for side, lora in enumerate(both) if not lora]
    if missing:
        named = "\n".join(f"  {prompt}" for prompt in missing[:_MAX_NAMED])
        more = f"\n  and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise InputError(
            f"{len(missing)} prompts have no finished concept:\n{named}{more}",
            file=str(folder),
            field="--distilled",
            expected=f"a folder with {WEIGHTS} and {CARD} for each, whose card names the prompt (`distill` writes it); "
            f"or one LoRA for all",
        )
    return [(one, two) for one, two in found]


def _plain(text: str) -> str:
    return " ".join(text.split())


def with_lora(config: GeneratorConfig, lora: str) -> GeneratorConfig:
    """The generator with a LoRA. InputError for one that takes none, or has one already."""
    chosen: Any = config.chosen
    if not hasattr(chosen, "lora"):
        problem = f"a generator of the kind {config.kind!r} takes no LoRA"
        raise InputError(problem, field="--distilled", expected="flux or diffusers")
    if chosen.lora:
        raise InputError("the generator has a LoRA already", field="--distilled", expected="a generator without one")
    return replace(config, **{config.kind.replace("-", "_"): replace(chosen, lora=lora)})


def draw_missing(
    rows: Sequence[Drawn], config: GeneratorConfig, num_images: int, seed: int, journal: Journal | None
) -> None:
    """Draw what is not there yet. An image's noise is its base prompt's: the rows differ in nothing else. InputError
    before anything is drawn for a folder with images of other prompts, another generator or seed."""
    for row in rows:
        _check_own(row, config, seed)
    waiting = [image for row in rows for image in _images(row, rows[0].prompts, config, num_images, seed)]
    left = [image for image in waiting if not image.path.exists()]
    if not left:
        return
    if len(left) < len(waiting):
        say(f"{len(waiting) - len(left)} images are drawn already")
    # One generator after the other, each with all that is drawn with its LoRA: weights with a LoRA in them are loaded.
    by_lora: dict[str, list[_Image]] = {}
    for image in left:
        by_lora.setdefault(image.lora, []).append(image)
    done, progress = 0, None
    for lora, images in by_lora.items():
        used = with_lora(config, lora) if lora else config
        with loading(model_names(used), "nothing: a server draws"):
            generator = used.open(journal)
        progress = progress or DoneOf(len(left), "images drawn")  # loading the first does not count
        for _ in _draw(generator, images, max(used.batch_size, _AT_ONCE)):
            done += 1
            progress.say(done)
        del generator
        gc.collect()  # before the next one is loaded, or the judge


def _images(
    row: Drawn, base: Sequence[tuple[str, str]], config: GeneratorConfig, num_images: int, seed: int
) -> Iterator[_Image]:
    for number, (prompts, bases, loras) in enumerate(zip(row.prompts, base, row.loras, strict=True), 1):
        for image in range(1, num_images + 1):
            for side in SIDES:
                key = stable_seed(seed, bases[side - 1], image - 1)
                path = image_path(row.condition.folder, number, side, image)
                size = config.size_of(seed, bases[side - 1])
                yield _Image(path, prompts[side - 1], key, size, loras[side - 1])


def _draw(generator: Generator, images: Sequence[_Image], at_once: int) -> Iterator[None]:
    for start in range(0, len(images), at_once):  # a generator holds the texts of all that it is asked for
        some = images[start : start + at_once]
        sizes = [image.size for image in some if image.size is not None]
        drawn = generator.draw([one.prompt for one in some], [one.seed for one in some], sizes or None)
        for image, pixels in zip(some, drawn, strict=True):
            image.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(image.path, encode_png(pixels))
            yield


def _check_own(row: Drawn, config: GeneratorConfig, seed: int) -> None:
    folder = row.condition.folder
    plain = config.with_batch_size(1)  # how many at once changes nothing but rounding
    digests = {name: model_digest(name) for name in model_names(config)}
    loras = [[lora and model_digest(lora) for lora in both] for both in row.loras]
    key = content_key(output_config(plain, digests), seed, row.prompts, loras)
    try:
        said = json.loads((folder / DRAWN).read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        said = None
    if said == {"key": key}:
        return
    if any(folder.glob("prompt*_img/original/*")):
        raise InputError(
            "holds images of other prompts, another generator, LoRA or seed",
            file=str(folder),
            field="--out",
            expected="another folder",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / DRAWN, json.dumps({"key": key}) + "\n")


def expanded_text(pairs: Sequence[CommonsensePair], expanded: Sequence[tuple[str, str]], key: str) -> str:
    """A file of expanded prompts, as `read_expanded` reads it. key: of who wrote them."""
    names = (*FIELDS[:2], *EXPANDED_FIELDS, "key")
    rows = [
        dict(zip(names, (*pair.prompts, *both, key), strict=True)) for pair, both in zip(pairs, expanded, strict=True)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def expanded_key(file: Path) -> str | None:
    """The key of a file that `expanded_text` made; None for any other."""
    try:
        return json.loads(file.read_text("utf-8").partition("\n")[0])["key"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
