"""Draw what each visual prompt does.

`python -m benchmarks.dual_process.draw_visual_prompts` writes docs/images/visual_prompts.png.

A column a visual prompt: a rendered scene of the micro world, what the VLM is shown where the scene agrees with the
overlay, and where it does not. Nothing is random: the first cases that the sampler with this seed gives.
"""

import textwrap
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

from inference.vlm.overlays import overlay_image
from microworld.scenes.overlay_questions import OverlayCase, sample_overlay
from microworld.scenes.world import render

SEED = 3
SHOWN_PX = 160  # rendered at this size, so that overlays are as sharp as at a real VLM's input
GAP_PX, LABEL_PX = 10, 62
OUT = Path("docs/images/visual_prompts.png")
ROWS = ("the image", "the VLM sees: Yes", "the VLM sees: No")


def first_cases() -> dict[str, dict[bool, OverlayCase]]:
    """One that agrees and one that does not, of each kind."""
    rng = np.random.default_rng(SEED)
    found: dict[str, dict[bool, OverlayCase]] = {}
    while len(found) < 5 or any(len(cases) < 2 for cases in found.values()):
        case = sample_overlay(rng)
        found.setdefault(case.kind, {}).setdefault(case.agrees, case)
    return found


def column(cases: dict[bool, OverlayCase]) -> list[np.ndarray]:
    """The scene that agrees, plain and overlaid, and the one that does not, overlaid; uint8 (SHOWN_PX, SHOWN_PX, 3)."""
    agreeing, other = cases[True], cases[False]
    images = render([agreeing.scene, other.scene], SHOWN_PX).images
    return [images[0], overlay_image(images[0], agreeing.prompt), overlay_image(images[1], other.prompt)]


def draw(out: Path = OUT) -> None:
    """Write the figure to `out`, a PNG."""
    cases = first_cases()
    step = SHOWN_PX + GAP_PX
    sheet = Image.new("RGB", (150 + step * len(cases), LABEL_PX + step * len(ROWS)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(ROWS):
        pen.text((6, LABEL_PX + row * step + SHOWN_PX // 2), label, "black")
    for number, (kind, of_kind) in enumerate(cases.items()):
        left = 150 + number * step
        pen.text((left, 4), kind, "black")
        pen.text((left, 18), "\n".join(textwrap.wrap(of_kind[True].prompt.question, 27)), "gray")
        for row, image in enumerate(column(of_kind)):
            sheet.paste(Image.fromarray(image), (left, LABEL_PX + row * step))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    tyro.cli(draw, description=__doc__)
