"""`python -m inference reflect "a photo of a red star left of a blue ring"`: one search, live."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from commands.arguments import Preset, parse_with_preset
from inference.model_store import require_models
from inference.required_servers import require_servers
from inference.search import Draft, SearchConfig, SearchTrace, next_round
from inference.search_tools import SearchToolsConfig
from inference.vlm.vlm import VlmConfig
from recipes import catalogue
from schemas.configuration import model_names
from schemas.errors import InputError
from schemas.images import encode_png
from schemas.terminal import say

if TYPE_CHECKING:
    import numpy as np

STRIP_PX = 160
GAP_PX = 6


@dataclass(frozen=True)
class ReflectArgs:
    """Draw an image, say what is wrong with it, draw again; the best of all rounds by the verifier is the answer."""

    prompt: Annotated[str, tyro.conf.Positional]
    """What the image should show."""
    out: Path = Path("reflected")
    """Folder: best.png, filmstrip.png, index.html."""
    seed: int = 0
    """Seed of the noise."""
    search: SearchConfig = field(default_factory=lambda: SearchConfig(width=2, depth=4))
    preset: Preset = field(default_factory=catalogue.default)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    """Who reflects and verifies."""
    tools: SearchToolsConfig = field(default_factory=SearchToolsConfig)


def default_arguments(preset: str) -> ReflectArgs:
    """What a preset says."""
    job = catalogue.load(preset, "search")
    return ReflectArgs(prompt=tyro.MISSING, preset=preset, vlm=job.vlm, tools=job.tools)


def main(argv: Sequence[str]) -> int:
    """0 when the pictures are written."""
    arguments = parse_with_preset(ReflectArgs, argv, "reflect", default_arguments, "inference")
    if not arguments.prompt.strip():
        raise InputError("the prompt is empty", field="prompt", expected='for example "a photo of two red circles"')
    config = arguments.tools.for_search(arguments.search, arguments.vlm)
    require_models(model_names(config))
    config.generator.check_sizes()
    require_servers(config, "--tools", arguments.vlm)
    started = time.monotonic()
    tools = config.open()
    say(f"models loaded in {time.monotonic() - started:.1f} s")
    search = replace(arguments.search, seed=arguments.seed)
    one = SearchTrace(arguments.prompt)
    for number in range(search.depth):
        started = time.monotonic()
        next_round([one], number, search, tools, [arguments.prompt])
        for draft in one.drafts[-search.width :]:
            say(f"  {describe(draft)}")
        best = one.best()
        say(f"round {number}: {time.monotonic() - started:.1f} s; best so far: image {best.number}, {best.score:.2f}")
    write_pictures(one, arguments.out)
    say(f"{arguments.out / 'index.html'}  ({one.cost.in_words()})")
    return 0


def describe(draft: Draft) -> str:
    """One line of progress."""
    how = f", from image {draft.parent}: {draft.reflection}" if draft.reflection else ""
    return f"image {draft.number}: score {draft.score:.2f}{how}"


def write_pictures(one: SearchTrace, folder: Path) -> None:
    """The best image, all of them as a strip (a row a chain), and the page that tells how they came about."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    best = one.best()
    (folder / "best.png").write_bytes(encode_png(best.image))
    chains, rounds = (1 + max(getattr(d, name) for d in one.drafts) for name in ("chain", "round"))
    small = [_with_longest_side(draft.image, STRIP_PX) for draft in one.drafts]
    down, across = (GAP_PX + max(image.shape[axis] for image in small) for axis in (0, 1))
    strip = np.full((chains * down + GAP_PX, rounds * across + GAP_PX, 3), 255, np.uint8)
    for draft, image in zip(one.drafts, small, strict=True):
        height, width = image.shape[:2]
        y, x = GAP_PX + draft.chain * down, GAP_PX + draft.round * across
        if draft is best:
            strip[y - GAP_PX : y + height + GAP_PX, x - GAP_PX : x + width + GAP_PX] = (42, 143, 74)
        strip[y : y + height, x : x + width] = image
    (folder / "filmstrip.png").write_bytes(encode_png(strip))
    rows = "".join(
        f"<tr{' class=best' if d is best else ''}><td>{d.number}</td><td>{d.round}</td><td>{d.chain}</td>"
        f"<td>{d.score:.2f}</td><td>{html.escape(d.prompt)}</td><td>{html.escape(d.reflection or '')}</td>"
        f"<td>{'' if d.parent is None else d.parent}</td><td>{d.seed}</td><td>{d.cost.in_words()}</td></tr>"
        for d in one.drafts
    )
    (folder / "index.html").write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(one.prompt)}</title>
<style>body{{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:left}}
.best{{background:#2a8f4a22}}img{{image-rendering:pixelated;max-width:100%}}</style>
<h1>{html.escape(one.prompt)}</h1><p>A row a chain, a column a round; the green frame is the answer.</p>
<img src="filmstrip.png" alt="all images of the search">
<table><tr><th>image</th><th>round</th><th>chain</th><th>score</th><th>drawn from</th><th>reflection</th>
<th>corrected from</th><th>seed</th><th>cost</th></tr>{rows}</table></html>"""
    )


def _with_longest_side(image: np.ndarray, side_px: int) -> np.ndarray:
    """uint8 (H, W, 3) at the same aspect; small images pixel by pixel."""
    import numpy as np
    from PIL import Image

    longest = max(image.shape[:2])
    height, width = (max(1, round(side * side_px / longest)) for side in image.shape[:2])
    how = Image.Resampling.NEAREST if longest < side_px else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), how))
