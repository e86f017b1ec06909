"""What `reflect` writes: the best image and a filmstrip of each prompt, and one page for all."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from inference.requirements.atoms import HOLDS
from inference.search import Draft, SearchTrace
from pipelines.report.pictures import data_uri
from pipelines.report.search_page import SOURCES
from pipelines.restarts import RESTARTS
from schemas.atomic_file import write_whole
from schemas.images import encode_png
from schemas.records import Cost, PromptRecord

if TYPE_CHECKING:
    import numpy as np

STRIP_PX = 160
GAP_PX = 6
CARD_PX = 240
"""Of an image on the page."""


@dataclass(frozen=True)
class Told:
    """One finished search: what it cost, and its section of the page. title: the prompt, for the list of all."""

    title: str
    anchor: str
    cost: Cost
    best: float
    section: str


def folder_names(prompts: Sequence[str]) -> list[str]:
    """A name for each prompt's folder, of letters, digits and dashes: "03-a-red-star"."""
    digits = len(str(len(prompts)))
    names = []
    for number, prompt in enumerate(prompts, 1):
        slug = re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
        names.append(f"{number:0{digits}d}{'-' if slug else ''}{slug}")
    return names


def write_pictures(one: SearchTrace, out: Path, name: str, alone: bool) -> Told:
    """The best image, and all of them as a strip (a row a chain), in the prompt's folder; in `out` where it is
    alone. Returns what the page says of it."""
    folder = out if alone else out / name
    folder.mkdir(parents=True, exist_ok=True)
    best = one.best()
    (folder / "best.png").write_bytes(encode_png(best.image))
    (folder / "filmstrip.png").write_bytes(encode_png(filmstrip(one)))
    return Told(one.prompt, name, one.cost, best.score, _section(one, best, "" if alone else f"{quote(name)}/", name))


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
        if draft is best:
            strip[y - GAP_PX : y + height + GAP_PX, x - GAP_PX : x + width + GAP_PX] = (42, 143, 74)
        strip[y : y + height, x : x + width] = image
    return strip


def write_page(out: Path, told: Sequence[Told], num_prompts: int) -> None:
    """`index.html`: a section a prompt, so far."""
    title = told[0].title if num_prompts == 1 else f"{num_prompts} prompts"
    listed = ""
    if num_prompts > 1:
        items = "".join(
            f'<li><a href="#p{one.anchor}">{html.escape(one.title)}</a> <small>{one.best:.2f}</small></li>'
            for one in told
        )
        left = f"<p>{num_prompts - len(told)} are still to come.</p>" if len(told) < num_prompts else ""
        listed = f"<h1>{num_prompts} prompts</h1><ol>{items}</ol>{left}"
    write_whole(
        out / "index.html",
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' data: file:; \
style-src 'unsafe-inline'"><style>{_CSS}</style>
{listed}{"".join(one.section for one in told)}</html>""",
    )


_CSS = """
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1100px;padding:0 1rem;color:#1c1c1e;
background:#fff}h1,h2,li,figcaption,td{overflow-wrap:anywhere}h2{white-space:pre-wrap;margin:0 0 .3rem}
section{border-top:1px solid #8884;padding:1.2rem 0}section:first-of-type{border:0}
.answer{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;margin:.8rem 0}.answer>div{flex:1 1 240px}
img{image-rendering:pixelated;display:block}.answer img{width:240px;max-width:100%;border:4px solid #2a8f4a;
box-sizing:border-box}.chain{display:flex;gap:.8rem;overflow-x:auto;padding:.3rem 0 .8rem}
figure{margin:0;flex:0 0 150px;font-size:12px}figure img{width:150px;box-sizing:border-box;border:2px solid transparent}
.best img{border-color:#2a8f4a}figcaption p{margin:.2rem 0}ul{list-style:none;margin:.2rem 0;padding:0}
.no{color:#c33}.ok{color:#2a8f4a}.small{font-size:13px;color:#777;margin:.2rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .6rem;
border-bottom:1px solid #8884;text-align:left;min-width:2rem}tr.best{background:#2a8f4a22}
@media (prefers-color-scheme:dark){body{background:#17181a;color:#e8e8ea}a{color:#8ab4f8}}
"""


def _section(one: SearchTrace, best: Draft, place: str, anchor: str) -> str:
    """place: of its pictures, as a link."""
    chains: dict[int, list[Draft]] = {}
    for draft in one.drafts:
        chains.setdefault(draft.chain, []).append(draft)
    strips = "".join(
        f"<div class=chain>{''.join(_card(draft, best, one.prompt) for draft in drafts)}</div>"
        for _, drafts in sorted(chains.items())
    )
    rows = "".join(
        f"<tr{' class=best' if d is best else ''}><td>{d.number}</td><td>{d.round}</td><td>{d.chain}</td>"
        f"<td>{d.score:.2f}</td><td>{html.escape(d.prompt)}</td><td>{html.escape(d.reflection or '')}</td>"
        f"<td>{'' if d.parent is None else d.parent}</td><td>{d.seed}</td><td>{d.cost.in_words()}</td></tr>"
        for d in one.drafts
    )
    return f"""<section id="p{anchor}"><h2>{html.escape(one.prompt)}</h2>{_asked(one.asked)}
<div class=answer><a href="{place}best.png"><img src="{place}best.png" alt="the answer"></a><div>
<b>Image {best.number}</b> of {len(one.drafts)} is the answer, with the verifier's score {best.score:.2f}.
Nobody judged it but the verifier.{_atoms(best)}
<p class=small>{one.cost.in_words()}</p></div></div>
<p class=small>A row a chain, a column a round; the green frame is the answer
(<a href="{place}filmstrip.png">all as one picture</a>).</p>
{strips}<details><summary>Seeds and costs</summary><div class=wide><table><tr><th>image</th><th>round</th><th>chain</th>
<th>score</th><th>drawn from</th><th>reflection</th><th>corrected from</th><th>seed</th><th>cost</th></tr>{rows}</table>
</div></details></section>"""


def _asked(record: PromptRecord) -> str:
    """Where the requirements come from."""
    if record.requirements_from is None:
        return ""
    source = SOURCES[record.requirements_from]
    note = f": {record.requirements_note}" if record.requirements_note else ""
    return f"<p class=small>What it requires: {html.escape(source + note)}.</p>"


def _card(draft: Draft, best: Draft, prompt: str) -> str:
    said = f"from image {draft.parent}: {draft.reflection}" if draft.reflection else ""
    if draft.restart is not None:
        said = f"drawn afresh: the image before {RESTARTS[draft.restart]}"
    parts = [f"<b>{draft.score:.2f}</b> image {draft.number}, round {draft.round}"]
    parts += [html.escape(said)] if said else []
    parts += [f"<i>{html.escape(draft.prompt)}</i>"] if draft.prompt != prompt else []
    return (
        f'<figure{" class=best" if draft is best else ""}><img alt="image {draft.number}" '
        f'src="{data_uri(encode_png(draft.image), CARD_PX)}"><figcaption>'
        f"{''.join(f'<p>{part}</p>' for part in parts)}{_atoms(draft)}</figcaption></figure>"
    )


def _atoms(draft: Draft) -> str:
    """What a verifier found that checks requirements one by one."""
    items = "".join(
        f"<li class={'ok' if one.value >= HOLDS else 'no'}>{'✓' if one.value >= HOLDS else '✗'} "
        f"{html.escape(one.text)} {one.value:.2f}</li>"
        for one in draft.atoms
    )
    return f"<ul>{items}</ul>" if items else ""


def _with_longest_side(image: np.ndarray, side_px: int) -> np.ndarray:
    """uint8 (H, W, 3) at the same aspect; small images pixel by pixel."""
    import numpy as np
    from PIL import Image

    longest = max(image.shape[:2])
    height, width = (max(1, round(side * side_px / longest)) for side in image.shape[:2])
    how = Image.Resampling.NEAREST if longest < side_px else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), how))
