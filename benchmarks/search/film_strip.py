"""Draw what a search does: `python -m benchmarks.search.film_strip --run RUN --out docs/images/film_strip.png`.

Of a finished search of the micro world: prompts with an image that the judge, which no search has seen, calls wrong,
and that so many reflections (`--corrections`), one after another, turned right, with all of it where the words say and
nothing besides. The first of each kind of mend that is told apart by its sentences' first words, the shortest
reflections first.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import tyro

from benchmarks.results_file import run_command
from commands.runs import open_run
from inference.judges.geneval_scoring import judge_objects
from inference.judges.segmentation_judge import SegmentationJudge
from microworld.family import micro_segmentation_judge
from microworld.scenes.captions import PLACES
from microworld.scenes.long_captions import mentions
from microworld.scenes.world import FRAME_PX
from pipelines.jobs import resolve_chains
from schemas.errors import InputError
from schemas.images import decode_image
from schemas.records import Candidate, DetectedObject, PromptRecord, PromptRow

LEAST_CHANGE = 6
"""Mean difference in grey levels of 255: what changed less, nobody sees at this size."""
RIGHT, WRONG, GREY, BLUE = "#16a34a", "#dc2626", "#6b7280", "#0369a1"


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


@dataclass(frozen=True)
class Story:
    """A prompt, a wrong image of it, and each image that was drawn from the one before; the last is right."""

    row: PromptRow
    images: Sequence[Candidate]

    @property
    def told(self) -> list[str]:
        """What was said of each image but the last."""
        return [(one.search.reflection if one.search else None) or "" for one in self.images[1:]]


def stories(rows: Sequence[PromptRow], corrections: int, most: int) -> list[Story]:
    """At most `most`, each of exactly so many corrections, the shortest words first."""
    judge = SegmentationJudge(micro_segmentation_judge())
    found: dict[str, Story] = {}
    ways = [Story(row, way) for row in rows for one in row.candidates if (way := _way_to(row, one, corrections))]
    for story in sorted(ways, key=lambda story: len(" ".join(story.told))):
        kind = " ".join(text.split()[0] for text in story.told)
        if kind in found or story.row.prompt.text in {other.row.prompt.text for other in found.values()}:
            continue
        images = [decode_image(one.image or b"") for one in story.images]
        if min(np.abs(a.astype(int) - b).mean() for a, b in pairwise(images)) < LEAST_CHANGE:
            continue
        limits, prompt = judge.config.thresholds, story.row.prompt
        seen = judge.find_objects(images)
        verdicts = [judge_objects(prompt, objects, limits).correct for objects in seen]
        if verdicts == [False] * corrections + [True] and _as_said(prompt, seen[-1]):
            found[kind] = story
        if len(found) == most:
            break
    return list(found.values())


def _as_said(prompt: PromptRecord, objects: Sequence[DetectedObject]) -> bool:
    """Whether nothing is there that nobody asked for, and whatever the words put into a corner is in it: GenEval's
    rules, by which the judge goes, know neither."""
    if len(objects) != sum(clause.count for clause in prompt.include):
        return False
    quarters = {(o.class_name, o.box[0] + o.box[2] > FRAME_PX, o.box[1] + o.box[3] > FRAME_PX) for o in objects}
    corners = [(m.shape, place) for m in mentions(prompt.text) for place in m.attributes & set(PLACES) if " " in place]
    return all((shape, place.endswith("right"), place.startswith("lower")) in quarters for shape, place in corners)


def _way_to(row: PromptRow, last: Candidate, corrections: int) -> list[Candidate]:
    """The image and those that it was corrected from, the first of them first; empty where they are fewer."""
    by_index, way = {candidate.index: candidate for candidate in row.candidates}, [last]
    while len(way) <= corrections:
        step = way[0].search
        if step is None or step.parent is None or not step.reflection:
            return []
        way.insert(0, by_index[step.parent])
    return way


def draw(found: Sequence[Story], out: Path) -> None:
    """Image, what was told, image, and so on. Stories of one correction stand beside each other, others below."""
    steps = len(found[0].told)
    beside = len(found) if steps == 1 else 1
    lines, columns = len(found) // beside, 1 + 2 * steps
    figure, axes = plt.subplots(lines, columns * beside, figsize=(1.467 * columns * beside, 1.9 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for mine, story in zip(axes.reshape(len(found), columns), found, strict=True):
        for axis, candidate in zip(mine[::2], story.images, strict=True):
            image = decode_image(candidate.image or b"")
            axis.imshow(image, interpolation="nearest")
            color = RIGHT if candidate is story.images[-1] else WRONG
            axis.add_patch(plt.Rectangle((-0.5, -0.5), *image.shape[1::-1], fill=False, lw=4, ec=color))
        for axis, told in zip(mine[1::2], story.told, strict=True):
            said = textwrap.fill(f"“{told}”", 17)
            axis.text(0.5, 0.5, said, ha="center", va="center", fontsize=9, style="italic", color=BLUE)
            axis.annotate("", (1, 0.02), (0, 0.02), xycoords="axes fraction", arrowprops={"arrowstyle": "-|>"})
        title = textwrap.fill(story.row.prompt.text, 22 * columns)
        mine[0].set_title(title, loc="left", fontsize=8.5, color=GREY, x=-0.02)
    figure.subplots_adjust(0.01, 0.02, 0.99, 1 - 0.22 / lines, wspace=0.06, hspace=0.45)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


@dataclass(frozen=True)
class Arguments:
    """Which search, and what of it."""

    run: str
    """The run folder of a finished search."""
    out: Path
    corrections: int = 1
    """Reflections that it took, one after another."""
    most: int = 3
    """Prompts that are shown."""


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    found = stories(searched_rows(arguments.run), arguments.corrections, arguments.most)
    if not found:
        expected = "a search with more prompts or rounds, or fewer --corrections"
        raise InputError("no image was turned right by so many reflections", field="--run", expected=expected)
    draw(found, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    run_command(main)
