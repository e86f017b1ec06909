"""`python -m microworld.training.composition_edits --out FILE.parquet`: edits of images for prompts that ask for much.

What `edit_dataset` is for GenEval's forms, of `scenes.compositions`: the generator's own drawings, of which nearly all
are wrong, and renders that are wrong in one to three things. One or two of the things that fail are mended, in the
words of a critic of kind `atoms` if its detector saw all of the image; every other pixel stays, what else is wrong too.
(Edits that mended everything, and told two things of it, taught nothing: docs/findings/corrector.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.flux.generator import FluxGenerator
from inference.grounding.check import check_objects
from inference.requirements.atoms import failing
from inference.requirements.typed_atoms import typed_atoms
from microworld.family import micro_flux
from microworld.scenes.captions import PLACES, bounding_square
from microworld.scenes.compositions import KINDS, is_reserved_composition, sample_composition
from microworld.scenes.instructions import split_sentences
from microworld.scenes.long_captions import mentions
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Scene, SceneObject, random_background, render
from microworld.training.pixel_scorer import read_scene
from microworld.training.repairs import paint_over
from schemas.atomic_file import replacing
from schemas.images import encode_png
from schemas.records import AtomValue, DetectedObject, PromptRecord
from schemas.terminal import say

KIND_WEIGHTS = (0.15, 0.2, 0.2, 0.2, 0.1, 0.15)
"""Of `KINDS`: three objects more often than two or four."""
MAX_TOLD = 2
CHUNK = 240
_CENTRE_PX = {"left": 8.5, "right": 23.5, "upper": 8.5, "lower": 23.5}
_JITTER_PX, _SIZES_PX = 1.2, (8.5, 11.5)


@dataclass(frozen=True)
class CompositionEditsConfig:
    """Write an editing dataset of prompts that ask for much."""

    out: Path
    """Parquet file to write."""
    num_drawings: int = 6_000
    """Images of the generator to start from; about half of them can be mended."""
    num_renders: int = 8_000
    """Triplets of rendered scenes."""
    seed: int = 0
    weights: Path = Path("microworld/weights")
    threads: int = 2


def free_composition(rng: np.random.Generator) -> PromptRecord:
    """A prompt that no benchmark has."""
    while True:
        record = sample_composition(rng, KINDS[rng.choice(len(KINDS), p=KIND_WEIGHTS)])
        if not is_reserved_composition(record):
            return record


def wanted_objects(rng: np.random.Generator, record: PromptRecord) -> list[SceneObject]:
    """What the prompt's words ask for, each in its corner; colours that they leave open are random."""
    wanted = []
    for one in mentions(record.text):
        (place,) = one.attributes & set(PLACES)
        row, column = place.split()
        color = next((a for a in one.attributes if a in COLORS), None) or str(rng.choice(list(COLORS)))
        cx, cy = (_CENTRE_PX[word] + rng.uniform(-_JITTER_PX, _JITTER_PX) for word in (column, row))
        wanted.append(SceneObject(one.shape, color, float(cx), float(cy), float(rng.uniform(*_SIZES_PX))))
    return wanted


def repaired(rng: np.random.Generator, record: PromptRecord, scene: Scene) -> Scene | None:
    """The scene with all that the prompt asks for: what is of the right shape and colour in its quarter stays as it is,
    what is so elsewhere moves there, the rest is new. None where nothing is to be repaired."""
    left, objects = list(scene.objects), []
    asked_colors = {one.class_name: one.color for one in record.include}
    for wanted in wanted_objects(rng, record):
        fits = [i for i in left if i.shape == wanted.shape and asked_colors[i.shape] in (None, i.color)]
        stays = [i for i in fits if _quarter(i) == _quarter(wanted) and i.size <= FRAME_PX / 2 - 1]
        kept = next(iter(stays or fits), None)
        if kept is not None:
            left.remove(kept)
        moved = wanted if kept is None else replace(wanted, color=kept.color)
        objects.append(kept if kept is not None and stays else moved)
    after = replace(scene, objects=tuple(objects))
    return after if left or any(item not in scene.objects for item in objects) else None


def spoilt(rng: np.random.Generator, scene: Scene) -> Scene:
    """The scene with one to three things wrong: an object gone, of another colour or shape, or in another's place."""
    objects = list(scene.objects)
    for _ in range(1 + rng.choice(3, p=(0.5, 0.35, 0.15))):
        if not objects:
            break
        i = int(rng.integers(len(objects)))
        way = rng.random()
        if way < 0.45:
            objects.pop(i)
        elif way < 0.65:
            objects[i] = replace(objects[i], color=_another(rng, list(COLORS), objects[i].color))
        elif way < 0.8:
            objects[i] = replace(objects[i], shape=_another(rng, list(SHAPES), objects[i].shape))
        elif len(objects) > 1:
            k = int(rng.choice([n for n in range(len(objects)) if n != i]))
            one, other = objects[i], objects[k]
            objects[i], objects[k] = replace(one, cx=other.cx, cy=other.cy), replace(other, cx=one.cx, cy=one.cy)
    return replace(scene, objects=tuple(objects))


def partly_mended(rng: np.random.Generator, scene: Scene, right: Scene) -> tuple[Scene, int]:
    """The scene with one or two of the objects that only `right` has: what is in their quarter gives way, or changes
    places with what moves there. All else stays, right or wrong. And how many edits that were."""
    wrong = [item for item in scene.objects if item not in right.objects]
    new = [item for item in right.objects if item not in scene.objects]
    objects = list(scene.objects)
    if not new:  # too many of something: one goes
        objects.remove(wrong[rng.integers(len(wrong))])
    chosen = rng.permutation(len(new))[: 1 + rng.integers(MAX_TOLD)]
    for i in chosen:
        in_the_way = [item for item in wrong if _quarter(item) == _quarter(new[i])]
        moved = [item for item in wrong if (item.shape, item.color) == (new[i].shape, new[i].color)][:1]
        if moved and moved[0] not in in_the_way:  # they change places
            objects += [replace(o, cx=moved[0].cx, cy=moved[0].cy) for o in in_the_way[:1] if o.shape in SHAPES]
        gone = in_the_way + moved
        wrong = [item for item in wrong if item not in gone]
        objects = [item for item in objects if item not in gone] + [new[i]]
    return replace(scene, objects=tuple(objects)), max(len(chosen), 1)


def told_of(record: PromptRecord, before: Scene, after: Scene, num_edits: int = 1) -> str:
    """What a critic of kind `atoms` says of the scene `before` and no longer of `after`; "" where something fails that
    held, where it is more than `MAX_TOLD` sentences, or fewer than there were edits: one of them would be untold."""
    failed = failing(_atoms(record, before))
    left = {atom.text for atom in failing(_atoms(record, after))}
    if left - {atom.text for atom in failed}:
        return ""
    mended = [atom.mend for atom in failed if atom.text not in left]
    told = split_sentences(" ".join(dict.fromkeys(mend for mend in mended if mend)))
    return " ".join(told) if num_edits <= len(told) <= MAX_TOLD else ""


def meets(record: PromptRecord, scene: Scene) -> bool:
    """Whether the scene has all that is asked for, and nothing else."""
    objects = [_seen(item) for item in scene.objects]
    return check_objects(record, objects).correct and len(objects) == len(mentions(record.text))


def drawn_rows(generator: FluxGenerator, seed: int, number: int) -> list[dict[str, Any]]:
    """Of `CHUNK` drawings those that could be mended."""
    rng = np.random.default_rng([seed, 103, number])
    records = [free_composition(rng) for _ in range(CHUNK)]
    images = generator.generate([record.text for record in records], rng.integers(2**48, size=CHUNK).tolist())
    rows = []
    for record, image in zip(records, images, strict=True):
        scene = read_scene(image)
        right = repaired(rng, record, scene)
        if right is None:
            continue
        after, num_edits = partly_mended(rng, scene, right)
        edited = paint_over(image, scene, after)
        # As it is read again: what was painted must be what was meant.
        if told := told_of(record, scene, read_scene(edited), num_edits):
            rows.append(_row("drawing", image, edited, record, told))
    return rows


def rendered_rows(seed: int, number: int) -> list[dict[str, Any]]:
    """`CHUNK` of them."""
    rng = np.random.default_rng([seed, 104, number])
    found: list[tuple[PromptRecord, Scene, Scene, str]] = []
    while len(found) < CHUNK:
        record = free_composition(rng)
        right = Scene(random_background(rng, 0.1), tuple(wanted_objects(rng, record)))
        before = spoilt(rng, right)
        if before.objects == right.objects or not meets(record, right):
            continue
        after, num_edits = partly_mended(rng, before, right)
        if told := told_of(record, before, after, num_edits):
            found.append((record, before, after, told))
    before, after = render([one[1] for one in found]).images, render([one[2] for one in found]).images
    return [
        _row("render", source, edited, record, told)
        for (record, _, _, told), source, edited in zip(found, before, after, strict=True)
    ]


def make_rows(config: CompositionEditsConfig) -> list[dict[str, Any]]:
    """All rows, in a seeded order."""
    import torch

    torch.set_num_threads(config.threads)
    generator = FluxGenerator(replace(micro_flux(batch_size=48), model=str(config.weights / "flux")))
    rows: list[dict[str, Any]] = []
    num_drawn, num_rendered = -(-config.num_drawings // CHUNK), -(-config.num_renders // CHUNK)
    for number in range(num_drawn):
        rows += drawn_rows(generator, config.seed, number)
        say(f"{len(rows)} of {(number + 1) * CHUNK} drawings mended, {num_drawn * CHUNK} in all")
    for number in range(num_rendered):
        rows += rendered_rows(config.seed, number)
    for number, row in enumerate(rows):
        row["omni_edit_id"] = f"micro_composition_{number}"
    order = np.random.default_rng([config.seed, 105]).permutation(len(rows))
    return [rows[i] for i in order]


def _row(task: str, source: np.ndarray, edited: np.ndarray, record: PromptRecord, told: str) -> dict[str, Any]:
    """OmniEdit's columns, and the caption."""
    return {
        "omni_edit_id": "",
        "task": task,
        "src_img": encode_png(source),
        "edited_img": encode_png(edited),
        "edited_prompt_list": [told],
        "caption": record.text,
        "width": FRAME_PX,
        "height": FRAME_PX,
    }


def _atoms(record: PromptRecord, scene: Scene) -> Sequence[AtomValue]:
    return typed_atoms(record, [_seen(item) for item in scene.objects])


def _seen(item: SceneObject) -> DetectedObject:
    return DetectedObject(item.shape, 0.9, tuple(bounding_square(item).tolist()), item.color)


def _quarter(item: SceneObject) -> tuple[bool, bool]:
    return item.cx > FRAME_PX / 2, item.cy > FRAME_PX / 2


def _another(rng: np.random.Generator, names: Sequence[str], known: str) -> str:
    return str(rng.choice([name for name in names if name != known]))


def main() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tyro

    config = tyro.cli(CompositionEditsConfig, description=__doc__)
    rows = make_rows(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(config.out) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, row_group_size=500)
    counts = {task: sum(row["task"] == task for row in rows) for task in ("drawing", "render")}
    say(f"{config.out}: {counts}")


if __name__ == "__main__":
    main()
