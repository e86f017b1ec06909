"""`python -m microworld.training.edit_dataset --out edits.parquet`: edits of the micro generator's own drawings.

What OmniEdit is to FLUX: many triplets, made by an editor that knows what is in an image, with captions. Four kinds:
drawings that are wrong, repaired (`repairs`); drawings and renders with one change that their caption leaves open, so
that only the instruction tells it; renders that are wrong by one operation; renders, mostly of coloured relations, that
are wrong by several. `python -m pipelines run --subsets editing --edits FILE` makes a dataset of them, and asks no VLM
for captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microworld.scenes.captions import (
    COLORED_RELATION,
    Caption,
    is_colored_relation,
    is_reserved,
    is_true_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.corrections import corrections, refine_prompt
from microworld.scenes.edits import exchanged, muddled, sample_edit, wrong_scene
from microworld.scenes.instructions import Edit, Operation, instruction
from microworld.scenes.questions import caption_of
from microworld.scenes.world import FRAME_PX, Scene, random_scene, render
from microworld.training.made_ahead import MadeAhead
from microworld.training.pixel_scorer import read_scene
from microworld.training.repairs import paint_over, repair
from microworld.training.training_loop import MicroTrainingConfig
from microworld.training.vlm_images import (
    PooledImage,
    can_be_told,
    open_corrected_pool,
    open_generated_pool,
    open_relations_pool,
)
from schemas.atomic_file import replacing
from schemas.images import encode_png


@dataclass(frozen=True)
class EditDatasetConfig:
    """Write an editing dataset of the micro generator's drawings."""

    out: Path
    """Parquet file to write."""
    num_drawings: int = 8_000
    """Images of the generator to start from; a good third of them can be repaired."""
    num_corrected: int = 0
    """Images of the corrector in `weights` to start from: what the later rounds of a search look at."""
    num_relations: int = 0
    """Images of the generator to start from that were drawn for coloured relations."""
    num_renders: int = 8_000
    """Triplets of rendered scenes."""
    num_muddled: int = 0
    """Triplets of rendered scenes in which several things are wrong, mostly of coloured relations."""
    seed: int = 0
    weights: Path = Path("microworld/weights")
    work_dir: Path = Path("runs/micro")
    """Where drawings are kept for other trainings."""
    data_workers: int = 0
    """Processes that draw and repair."""


CHUNK = 200
WRONG_WEIGHTS = {
    "single_object": 0.05,
    "colors": 0.08,
    "two_object": 0.15,
    "counting": 0.12,
    "position": 0.4,
    "color_attr": 0.2,
}
"""Tags of the captions of wrong renders: about as the generator's own wrong drawings have them, with more relations."""
MUDDLED_WEIGHTS = {COLORED_RELATION: 0.6, "color_attr": 0.2, "position": 0.1, "two_object": 0.1}
FEWEST_SHARE = 0.7  # of the repairs of coloured relations take the fewest edits; the others are worded as ever
REFINED_SHARE = 0.2  # of the captions of wrong images are refined, as a search refines its prompts
CANONICAL_SHARE = 0.5  # of the instructions have the wording of the rule subset


@dataclass(frozen=True)
class Triplet:
    """One row before it is one."""

    task: str
    source: np.ndarray
    edited: np.ndarray
    caption: str
    edits: tuple[Edit, ...]


def edited_drawing(rng: np.random.Generator, item: PooledImage) -> Triplet | None:
    """A repaired drawing; of a right one, one with a change that its caption leaves open. None where neither can be
    done, or where the pixel scorer does not find it done."""
    caption, scene = item.caption, item.scene
    if is_true_of(caption, scene) and caption.tag == "position" and rng.random() < 0.5:
        return _wrong_way_round(item)
    if is_true_of(caption, scene):
        changed = open_edit(rng, caption, scene) if can_be_told(scene) else None
        task, found = "open", None if changed is None else ((changed[0],), changed[1])
    else:
        task, found = "repair", repair(rng, caption, scene, fewest=_takes_fewest(rng, caption))
    if found is None:
        return None
    image = paint_over(item.image, scene, found[1])
    if not is_true_of(caption, read_scene(image)):
        return None
    return Triplet(task, item.image, image, _worded(rng, caption, scene), found[0])


def _wrong_way_round(item: PooledImage) -> Triplet | None:
    """From a right drawing of a relation with its objects exchanged, which is wrong, back to the drawing."""
    swapped = paint_over(item.image, item.scene, exchanged(item.scene, 0, 1))
    edits = corrections(item.caption, read_scene(swapped))
    if [edit.operation for edit in edits] != [Operation.MOVE]:
        return None
    return Triplet("repair", swapped, item.image, item.caption.text, edits)


def edited_render(rng: np.random.Generator) -> tuple[str, Scene, Scene, Caption, tuple[Edit, ...]] | None:
    """Task, scenes before and after, caption and edits: wrong by one operation, or changed where the caption is open.
    None where a try found nothing."""
    if rng.random() < 0.5:
        caption = sample_training_caption(rng, WRONG_WEIGHTS)
        after = sample_scene(rng, caption)
        edit, before = wrong_scene(rng, caption, after)
        if edit.operation is Operation.MOVE and edit.relation:  # the wrong way round, as the generator draws them
            before = exchanged(after, 0, 1)
            edit = corrections(caption, before)[0]
        return "repair", before, after, caption, (edit,)
    before = random_scene(rng)
    caption = caption_of(rng, before)
    changed = None if caption is None or is_reserved(caption) else open_edit(rng, caption, before)
    return None if caption is None or changed is None else ("open", before, changed[1], caption, (changed[0],))


def muddled_render(rng: np.random.Generator) -> tuple[str, Scene, Scene, Caption, tuple[Edit, ...]] | None:
    """As `edited_render` gives them: wrong by several edits mostly, and repaired as a drawing would be. None where a
    try found nothing."""
    caption = sample_training_caption(rng, MUDDLED_WEIGHTS)
    before = muddled(rng, sample_scene(rng, caption))
    found = repair(rng, caption, before, fewest=_takes_fewest(rng, caption))
    return None if found is None else ("repair", before, found[1], caption, found[0])


def _takes_fewest(rng: np.random.Generator, caption: Caption) -> bool:
    return is_colored_relation(caption) and rng.random() < FEWEST_SHARE


def open_edit(rng: np.random.Generator, caption: Caption, scene: Scene) -> tuple[Edit, Scene] | None:
    """One edit after which the caption is as true as before; None where a few tries find none."""
    for _ in range(6):
        edit, after = sample_edit(rng, scene)
        if is_true_of(caption, after):
            return edit, after
    return None


def _worded(rng: np.random.Generator, caption: Caption, scene: Scene) -> str:
    wrong = not is_true_of(caption, scene)
    return refine_prompt(rng, caption, scene) if wrong and rng.random() < REFINED_SHARE else caption.text


MakeRender = Callable[[np.random.Generator], tuple[str, Scene, Scene, Caption, tuple[Edit, ...]] | None]


def drawn_triplets(items: Sequence[PooledImage], seed: int, number: int) -> list[Triplet]:
    """Of the drawings of chunk `number`."""
    rng = np.random.default_rng([seed, 95, number])
    return [t for item in items[number * CHUNK : (number + 1) * CHUNK] if (t := edited_drawing(rng, item))]


def rendered_triplets(seed: int, number: int, make: MakeRender = edited_render) -> list[Triplet]:
    """`CHUNK` of them."""
    rng, found = np.random.default_rng([seed, 96, number]), []
    while len(found) < CHUNK:
        if (made := make(rng)) is not None:
            found.append(made)
    sources, edited = (render([one[i] for one in found]).images for i in (1, 2))
    return [
        Triplet(task, source, after, _worded(rng, caption, before), edits)
        for (task, before, _, caption, edits), source, after in zip(found, sources, edited, strict=True)
    ]


def to_row(triplet: Triplet, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """OmniEdit's columns, and the caption."""
    how = None if rng.random() < CANONICAL_SHARE else rng
    return {
        "omni_edit_id": f"micro_{triplet.task}_{number}",
        "task": triplet.task,
        "src_img": encode_png(triplet.source),
        "edited_img": encode_png(triplet.edited),
        "edited_prompt_list": [" ".join(instruction(edit, how) for edit in triplet.edits)],
        "caption": triplet.caption,
        "width": FRAME_PX,
        "height": FRAME_PX,
    }


def make_rows(config: EditDatasetConfig) -> list[dict[str, Any]]:
    """All rows, in a seeded order."""
    training = MicroTrainingConfig(
        1.0, config.work_dir, config.weights, seed=config.seed, data_workers=config.data_workers
    )
    pool = open_generated_pool(training, config.num_drawings)
    corrected = open_corrected_pool(training, pool, config.num_corrected)
    relations = open_relations_pool(training, config.num_relations)
    wanted = ((pool, config.num_drawings), (corrected, config.num_corrected), (relations, config.num_relations))
    items = [item for drawn, number in wanted if drawn for item in drawn.items[:number]]
    num_drawn, num_edited = -(-len(items) // CHUNK), -(-config.num_renders // CHUNK)
    num_rendered = num_edited - (-config.num_muddled // CHUNK)

    def make(number: int) -> list[dict[str, Any]]:
        if number < num_drawn:
            triplets = drawn_triplets(items, config.seed, number)
        else:
            render_one = edited_render if number < num_drawn + num_edited else muddled_render
            triplets = rendered_triplets(config.seed, number - num_drawn, render_one)
        rng = np.random.default_rng([config.seed, 97, number])
        return [to_row(triplet, number * CHUNK + i, rng) for i, triplet in enumerate(triplets)]

    made = MadeAhead(make, config.data_workers, ahead=2)
    rows = [row for _ in range(num_drawn + num_rendered) for row in made.next()]
    order = np.random.default_rng([config.seed, 98]).permutation(len(rows))
    return [rows[i] for i in order]


def write_edit_dataset(config: EditDatasetConfig) -> dict[str, int]:
    """The file, whole or not at all; how many rows of each task."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = make_rows(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(config.out) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, row_group_size=500)
    return {task: sum(row["task"] == task for row in rows) for task in ("repair", "open")}


def main() -> None:
    import tyro

    config = tyro.cli(EditDatasetConfig, description=__doc__)
    print(f"{config.out}: {write_edit_dataset(config)}", flush=True)


if __name__ == "__main__":
    main()
