"""What `reflect` writes: the best image and a filmstrip of each prompt, and one page for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from commands.made_by import RECORD, MadeBy
from inference.requirements.atoms import failing
from inference.search import Draft, SearchTrace
from pipelines.report.pictures import data_uri
from pipelines.report.search_page import SOURCES
from pipelines.report.shell import render
from pipelines.restarts import RESTARTS
from schemas.atomic_file import write_whole
from schemas.images import encode_png
from schemas.new_file import short_name, write_new
from schemas.records import AtomValue, Cost, PromptRecord

if TYPE_CHECKING:
    import numpy as np

STRIP_PX = 160
GAP_PX = 6
CARD_PX = 240
"""Of an image on the page."""
ANSWER_PX = 540


@dataclass(frozen=True)
class Shown:
    """One image of a search. way: how it came about. text: what it was drawn from, where that is not the prompt.
    failing: the requirements that it fails, the worst first."""

    draft: Draft
    uri: str
    is_best: bool
    way: str
    text: str
    failing: tuple[AtomValue, ...]

    @property
    def what(self) -> str:
        """For those who do not see it."""
        return f"Image {self.draft.number}, round {self.draft.round}{', the answer' if self.is_best else ''}"


@dataclass(frozen=True)
class Told:
    """One finished search, as the page shows it. title: the prompt. asked: where its requirements come from. place: of
    its files, as a link. chains: the images of each, in order."""

    title: str
    anchor: str
    cost: Cost
    asked: str
    place: str
    best: Shown
    chains: list[list[Shown]]

    @property
    def by_number(self) -> list[Shown]:
        """All images as they were drawn."""
        return sorted((shown for chain in self.chains for shown in chain), key=lambda shown: shown.draft.number)


def folder_names(prompts: Sequence[str]) -> list[str]:
    """A name for each prompt's folder, of letters, digits and dashes: "03-a-red-star"."""
    digits = len(str(len(prompts)))
    names = []
    for number, prompt in enumerate(prompts, 1):
        slug = short_name(prompt, "")
        names.append(f"{number:0{digits}d}{'-' if slug else ''}{slug}")
    return names


def write_pictures(one: SearchTrace, out: Path, name: str, alone: bool, made_by: MadeBy, seed: int) -> Told:
    """The best image, all of them as a strip (a row a chain), and how they were made, in the prompt's folder; in `out`
    where it is alone. Returns what the page says of it."""
    folder = out if alone else out / name
    best = one.best()
    drawn = made_by.png(best.image, one.prompt, seed, number=best.number, noise_seed=best.seed)
    strip = made_by.png(filmstrip(one), one.prompt, seed, number="all, a row a chain")
    record = made_by.record(prompt=one.prompt, seed=seed, **_record(one, best))
    for file, data in (("best.png", drawn), ("filmstrip.png", strip), (RECORD, record)):
        write_new(folder / file, data, "--out")
    chains: dict[int, list[Shown]] = {}
    for draft in one.drafts:
        chains.setdefault(draft.chain, []).append(_shown(draft, best, one.prompt))
    return Told(
        one.prompt,
        name,
        one.cost,
        _asked(one.asked),
        "" if alone else f"{quote(name)}/",
        next(shown for chain in chains.values() for shown in chain if shown.is_best),
        [chains[chain] for chain in sorted(chains)],
    )


def filmstrip(one: SearchTrace) -> np.ndarray:
    """uint8 (H, W, 3): a row a chain, a column a round; the answer framed."""
    import numpy as np

    best = one.best()
    chains, rounds = (1 + max(getattr(d, name) for d in one.drafts) for name in ("chain", "round"))
    small = [_with_longest_side(draft.image, STRIP_PX) for draft in one.drafts]
    down, across = (GAP_PX + max(image.shape[axis] for image in small) for axis in (0, 1))
    strip = np.full((chains * down + GAP_PX, rounds * across + GAP_PX, 3), 255, np.uint8)
    for draft, image in zip(one.drafts, small, strict=True):
        height, width = image.shape[:2]
        y, x = GAP_PX + draft.chain * down, GAP_PX + draft.round * across
        if draft.number == best.number:
            strip[y - GAP_PX : y + height + GAP_PX, x - GAP_PX : x + width + GAP_PX] = (42, 143, 74)
        strip[y : y + height, x : x + width] = image
    return strip


def write_page(out: Path, told: Sequence[Told], num_prompts: int, made_by: MadeBy) -> None:
    """`index.html`: a section a prompt, so far."""
    page = render(
        "reflect.html.j2",
        name=told[0].title if num_prompts == 1 else f"{num_prompts} prompts",
        told=told,
        num_prompts=num_prompts,
        made_by=made_by,
        words=["verifier", "round", "chain", "reflection", "drawn afresh", "requirement"],
    )
    write_whole(out / "index.html", page)


def _shown(draft: Draft, best: Draft, prompt: str) -> Shown:
    said = f"from image {draft.parent}: {draft.reflection}" if draft.reflection else ""
    if draft.restart is not None:
        said = f"drawn afresh: the image before {RESTARTS[draft.restart]}"
    return Shown(
        draft,
        data_uri(encode_png(draft.image), ANSWER_PX if draft.number == best.number else CARD_PX),
        draft.number == best.number,
        said,
        draft.prompt if draft.prompt != prompt else "",
        tuple(failing(draft.atoms)),
    )


def _asked(record: PromptRecord) -> str:
    """Where the requirements come from."""
    if record.requirements_from is None:
        return ""
    source = SOURCES[record.requirements_from]
    note = f": {record.requirements_note}" if record.requirements_note else ""
    return f"What it requires: {source + note}."


def _record(one: SearchTrace, best: Draft) -> dict[str, Any]:
    """Of a search, for its JSON."""
    left_out = ("image", "atoms", "parts", "cost")
    images = [
        {name: value for name, value in vars(draft).items() if name not in left_out}
        | {"requirements": {atom.text: atom.value for atom in draft.atoms}, "cost": draft.cost.in_words()}
        for draft in one.drafts
    ]
    return {"best": best.number, "images": images}


def _with_longest_side(image: np.ndarray, side_px: int) -> np.ndarray:
    """uint8 (H, W, 3) at the same aspect; small images pixel by pixel."""
    import numpy as np
    from PIL import Image

    longest = max(image.shape[:2])
    height, width = (max(1, round(side * side_px / longest)) for side in image.shape[:2])
    how = Image.Resampling.NEAREST if longest < side_px else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), how))
