"""Draw what a search does, as one strip: `python -m benchmarks.search.film_strip RUN docs/images/film_strip.png`.

Of a finished search of the micro world: prompts whose first image the judge, which no search has seen, calls wrong, and
which one reflection turned right. The first of each kind of mend that is told apart by its first word, the shortest
reflections first.
"""

import sys
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from commands.runs import open_run
from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from pipelines.jobs import resolve_chains
from schemas.images import decode_image
from schemas.records import Candidate, PromptRow

LEAST_CHANGE = 6
"""Mean difference in grey levels of 255: what changed less, nobody sees at this size."""
RIGHT, WRONG, GREY = "#16a34a", "#dc2626", "#6b7280"


def searched_rows(uri: str) -> list[PromptRow]:
    """Rows of a finished search, with their images."""
    folder, config = open_run(uri)
    rows: list[PromptRow] = []
    for subset, steps in resolve_chains(folder, config).items():
        for unit in folder.units(subset):
            _, found = folder.read_block(steps[-1].name, steps[-1].key, unit)
            for step in steps:
                if step.link.stage.makes_images:
                    found = folder.with_images(found, step.name, step.key, unit)
            rows += found
    return rows


def mended(rows: list[PromptRow], most: int) -> list[tuple[PromptRow, Candidate, Candidate]]:
    """(prompt, wrong image, the right one that was drawn from it by a reflection)."""
    judge = SegmentationJudge(micro_segmentation_judge())
    pairs = [
        (row, by_index[step.parent], candidate)
        for row in rows
        for by_index in [{candidate.index: candidate for candidate in row.candidates}]
        for candidate in row.candidates
        if (step := candidate.search) is not None and step.reflection and step.parent is not None
    ]
    found: dict[str, tuple[PromptRow, Candidate, Candidate]] = {}
    for row, before, after in sorted(pairs, key=lambda pair: len(_reflection(pair[2]))):
        kind = _reflection(after).split()[0]
        if kind in found or row.prompt.text in {other[0].prompt.text for other in found.values()}:
            continue
        images = [decode_image(one.image or b"") for one in (before, after)]
        if np.abs(images[0].astype(int) - images[1]).mean() < LEAST_CHANGE:
            continue
        seen = judge.find_objects(images)
        verdicts = [judge_objects(row.prompt, objects, judge.config.thresholds).correct for objects in seen]
        if verdicts == [False, True]:
            found[kind] = (row, before, after)
        if len(found) == most:
            break
    return list(found.values())


def _reflection(candidate: Candidate) -> str:
    return (candidate.search.reflection if candidate.search else None) or ""


def draw(found: list[tuple[PromptRow, Candidate, Candidate]], out: Path) -> None:
    """A row of triples: wrong image, reflection, right image."""
    figure, axes = plt.subplots(1, 3 * len(found), figsize=(4.4 * len(found), 1.9), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (row, before, after) in enumerate(found):
        left, middle, right = axes[0][3 * number : 3 * number + 3]
        for axis, candidate, color in ((left, before, WRONG), (right, after, RIGHT)):
            image = decode_image(candidate.image or b"")
            axis.imshow(image, interpolation="nearest")
            axis.add_patch(plt.Rectangle((-0.5, -0.5), *image.shape[1::-1], fill=False, lw=4, ec=color))
        said = textwrap.fill(f"“{_reflection(after)}”", 17)
        middle.text(0.5, 0.98, textwrap.fill(row.prompt.text, 20), ha="center", va="top", fontsize=8.5, color=GREY)
        middle.text(0.5, 0.5, said, ha="center", va="center", fontsize=10, style="italic", color="#0369a1")
        middle.annotate("", (1, 0.12), (0, 0.12), xycoords="axes fraction", arrowprops={"arrowstyle": "-|>"})
    figure.tight_layout(pad=0.4)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    draw(mended(searched_rows(sys.argv[1]), most=3), Path(sys.argv[2]))
