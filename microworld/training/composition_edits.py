"""`python -m microworld.training.composition_edits --out FILE.parquet`: edits of images for prompts that ask for much.

What `edit_dataset` is for GenEval's forms, of `scenes.compositions`: the generator's own drawings, of which nearly all
are wrong, what a corrector made of such, and renders that are wrong in one to three things. Of each a critic of kind
`atoms` says what would mend one or two of the things that fail, and exactly these sentences are obeyed; every other
pixel stays, what else is wrong too.
(Edits that did something else than was told taught nothing: docs/findings/corrector.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.flux.corrector import FluxCorrector, FluxCorrectorConfig
from inference.flux.generator import FluxGenerator
from inference.grounding.check import check_objects
from inference.interfaces import Corrector
from inference.requirements.atoms import failing
from inference.requirements.typed_atoms import typed_atoms
from microworld.family import micro_flux
from microworld.scenes.captions import PLACES, bounding_square, relations_between
from microworld.scenes.compositions import KINDS, is_reserved_composition, sample_composition
from microworld.scenes.instructions import Edit, Operation, parse_instruction, parse_replacement, split_sentences
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
_CENTRE_PX = {False: 8.5, True: 23.5}
QUARTERS = ((False, False), (True, False), (False, True), (True, True))
Quarter = tuple[bool, bool]
"""Whether on the right, whether below."""
_MAX_WAYS = 24
_MAX_ROUNDS = 3
_JITTER_PX, _SIZES_PX = 1.2, (8.5, 11.5)


@dataclass(frozen=True)
class CompositionEditsConfig:
    """Write an editing dataset of prompts that ask for much."""

    out: Path
    """Parquet file to write."""
    num_drawings: int = 6_000
    """Images of the generator to start from; about three quarters of them can be mended."""
    num_corrected: int = 0
    """Images of a corrector to start from: what the later rounds of a search look at."""
    corrector: str = "micro/corrector"
    """Whose images these are."""
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


@dataclass(frozen=True)
class Asked:
    """One thing that a prompt asks for, and where. color: None where it leaves it open."""

    shape: str
    color: str | None
    quarter: Quarter

    def fits(self, item: SceneObject) -> bool:
        """Whether an object is such a one, wherever it stands."""
        return item.shape == self.shape and self.color in (None, item.color)


def things_asked(record: PromptRecord) -> list[Asked]:
    """By the prompt's words."""
    found = []
    for one in mentions(record.text):
        (place,) = one.attributes & set(PLACES)
        color = next((a for a in one.attributes if a in COLORS), None)
        found.append(Asked(one.shape, color, (place.endswith("right"), place.startswith("lower"))))
    return found


def wanted_objects(rng: np.random.Generator, record: PromptRecord) -> list[SceneObject]:
    """What the prompt's words ask for, each in its corner; colours that they leave open are random."""
    return [_drawn(rng, asked.shape, asked.color, asked.quarter) for asked in things_asked(record)]


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


def told_edits(rng: np.random.Generator, record: PromptRecord, scene: Scene) -> str:
    """What a critic of kind `atoms` says of one or two of the things that fail, any of them; "" where it has no words.
    Its detector sees nothing in what is malformed."""
    failed = failing(_atoms(record, scene))
    said = list(dict.fromkeys(failed[i].mend for i in rng.permutation(len(failed)) if failed[i].mend))
    return " ".join(mend for mend in said[: 1 + rng.integers(MAX_TOLD)] if mend)


def obeyed(rng: np.random.Generator, record: PromptRecord, scene: Scene, told: str) -> Scene | None:
    """The scene after exactly the edits that the sentences tell, everything else where it was; each thing comes where
    the prompt wants it, if it can. None where a sentence cannot be obeyed, where what it tells fails still, or where
    no fewer things fail than before."""
    ways, asked = [scene], things_asked(record)
    for sentence in split_sentences(told):
        ways = [after for before in ways for after in _ways(rng, asked, before, sentence)][:_MAX_WAYS]
    failed = failing(_atoms(record, scene))
    meant = {atom.text for atom in failed if atom.mend and atom.mend in told}
    for after in ways:
        fails = {atom.text for atom in failing(_atoms(record, after))}
        if not fails & meant and len(fails) < len(failed):
            return after
    return None


def _ways(rng: np.random.Generator, asked: Sequence[Asked], scene: Scene, sentence: str) -> list[Scene]:
    """Scenes after what one sentence tells, the likeliest meant first."""
    edit = parse_replacement(sentence) or parse_instruction(sentence)
    if edit is None:
        return []
    named = [item for item in scene.objects if item.shape == edit.shape and edit.color in (None, item.color)]
    # Of several, one that is not where the prompt wants such a one.
    named.sort(key=lambda item: any(one.fits(item) and one.quarter == _quarter(item) for one in asked))
    match edit.operation:
        case Operation.RESHAPE if edit.new_shape:
            return [_with(scene, item, _replaced(item, edit.new_shape, edit.new_color)) for item in named]
        case Operation.RECOLOR:
            return [_with(scene, item, replace(item, color=edit.new_color or item.color)) for item in named]
        case Operation.MOVE:
            return [after for item in named for after in _moved(rng, scene, item, asked)]
        case Operation.REMOVE:
            return [_with(scene, item, None) for item in named]
        case Operation.RECOUNT if (edit.new_count or 0) < (edit.count or 0):
            return [_with(scene, item, None) for item in named]
        case _:
            ways, missing = [scene], edit.new_count - (edit.count or 0) if edit.new_count else edit.count or 1
            for _ in range(missing):
                ways = [after for before in ways for after in _added(rng, before, edit.shape, edit.color, asked)]
                ways = [after for after in ways if _stands(after, edit)]
            return ways


def _moved(rng: np.random.Generator, scene: Scene, item: SceneObject, asked: Sequence[Asked]) -> list[Scene]:
    """To where the prompt wants it, or anywhere else, where it changes places with what stands there; what is malformed
    there gives way."""
    first = {one.quarter for one in asked if one.fits(item)}
    found = []
    for quarter in sorted(QUARTERS, key=lambda quarter: quarter not in first):
        there = [other for other in scene.objects if _quarter(other) == quarter and other is not item]
        if quarter == _quarter(item) or len(there) > 1:
            continue
        cx, cy = _centre(rng, quarter)
        after = _with(scene, item, replace(item, cx=cx, cy=cy))
        for other in there:
            after = _with(after, other, replace(other, cx=item.cx, cy=item.cy) if other.shape in SHAPES else None)
        found.append(after)
    return found


def _added(
    rng: np.random.Generator, scene: Scene, shape: str, color: str | None, asked: Sequence[Asked]
) -> list[Scene]:
    """In a quarter where nothing stands, or nothing but what is malformed; first where the prompt wants it."""
    first = {one.quarter for one in asked if one.shape == shape and color in (None, one.color)}
    taken = {_quarter(other) for other in scene.objects if other.shape in SHAPES}
    found = []
    for quarter in sorted(QUARTERS, key=lambda quarter: quarter not in first):
        if quarter not in taken:
            left = tuple(other for other in scene.objects if _quarter(other) != quarter)
            found.append(replace(scene, objects=(*left, _drawn(rng, shape, color, quarter))))
    return found


def meets(record: PromptRecord, scene: Scene) -> bool:
    """Whether the scene has all that is asked for, and nothing else."""
    objects = [_seen(item) for item in scene.objects]
    return check_objects(record, objects).correct and len(objects) == len(mentions(record.text))


def drawn_rows(
    generator: FluxGenerator, seed: int, number: int, corrector: Corrector | None = None
) -> list[dict[str, Any]]:
    """Of `CHUNK` drawings those that could be mended. corrector: first draws each again, one to three times."""
    rng = np.random.default_rng([seed, 106 if corrector else 103, number])
    records = [free_composition(rng) for _ in range(CHUNK)]
    images = generator.generate([record.text for record in records], rng.integers(2**48, size=CHUNK).tolist())
    if corrector:
        images = _corrected(corrector, rng, records, images)
    rows = []
    for record, image in zip(records, images, strict=True):
        scene = read_scene(image)
        told = told_edits(rng, record, scene)
        after = obeyed(rng, record, scene, told)
        if after is None:
            continue
        edited = paint_over(image, scene, after)
        if _same_things(read_scene(edited), after):  # what was painted must be what was meant
            rows.append(_row("corrected" if corrector else "drawing", image, edited, record, told))
    return rows


def _corrected(
    corrector: Corrector, rng: np.random.Generator, records: Sequence[PromptRecord], images: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Images that a chain of a search has after a few rounds, each by a critic's words of the one before."""
    images = list(images)
    rounds = rng.integers(1, _MAX_ROUNDS + 1, size=len(images))
    for done in range(_MAX_ROUNDS):
        told = {
            i: words
            for i, image in enumerate(images)
            if done < rounds[i] and (words := told_edits(rng, records[i], read_scene(image)))
        }
        seeds = rng.integers(2**48, size=len(told)).tolist()
        again = corrector.correct(
            [images[i] for i in told], [records[i].text for i in told], list(told.values()), seeds
        )
        for i, image in zip(told, again, strict=True):
            images[i] = image
    return images


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
        told = told_edits(rng, record, before)
        after = obeyed(rng, record, before, told)
        if after is not None:
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
    num_drawn, num_corrected, num_rendered = (
        -(-number // CHUNK) for number in (config.num_drawings, config.num_corrected, config.num_renders)
    )
    for number in range(num_drawn):
        rows += drawn_rows(generator, config.seed, number)
        say(f"{len(rows)} of {(number + 1) * CHUNK} drawings mended, {num_drawn * CHUNK} in all")
    if num_corrected:
        corrector, before = FluxCorrector(FluxCorrectorConfig(config.corrector), generator), len(rows)
        for number in range(num_corrected):
            rows += drawn_rows(generator, config.seed, number, corrector)
            mended = f"{len(rows) - before} of {(number + 1) * CHUNK}"
            say(f"{mended} of the corrector's images mended, {num_corrected * CHUNK} in all")
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
    return typed_atoms(record, [_seen(item) for item in scene.objects if item.shape in SHAPES])


def _stands(scene: Scene, edit: Edit) -> bool:
    """Whether the last object stands where the edit says, seen from one that it names."""
    *others, new = scene.objects
    named = [o for o in others if o.shape == edit.target and edit.target_color in (None, o.color)]
    return edit.relation is None or any(
        edit.relation in relations_between(bounding_square(new), bounding_square(o)) for o in named
    )


def _same_things(one: Scene, other: Scene) -> bool:
    """Whether the same things stand in the same quarters."""
    return sorted((o.shape, o.color, _quarter(o)) for o in one.objects) == sorted(
        (o.shape, o.color, _quarter(o)) for o in other.objects
    )


def _with(scene: Scene, item: SceneObject, new: SceneObject | None) -> Scene:
    """The scene with another object in an object's place, or none."""
    objects = [new if one is item else one for one in scene.objects]
    return replace(scene, objects=tuple(one for one in objects if one is not None))


def _replaced(item: SceneObject, shape: str, color: str | None) -> SceneObject:
    low, high = _SIZES_PX
    return replace(item, shape=shape, color=color or item.color, size=min(max(item.size, low), high), stroke=0.0)


def _drawn(rng: np.random.Generator, shape: str, color: str | None, quarter: Quarter) -> SceneObject:
    cx, cy = _centre(rng, quarter)
    return SceneObject(shape, color or str(rng.choice(list(COLORS))), cx, cy, float(rng.uniform(*_SIZES_PX)))


def _centre(rng: np.random.Generator, quarter: Quarter) -> tuple[float, float]:
    right, below = (_CENTRE_PX[there] + float(rng.uniform(-_JITTER_PX, _JITTER_PX)) for there in quarter)
    return right, below


def _seen(item: SceneObject) -> DetectedObject:
    return DetectedObject(item.shape, 0.9, tuple(bounding_square(item).tolist()), item.color)


def _quarter(item: SceneObject) -> Quarter:
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
    counts = {task: sum(row["task"] == task for row in rows) for task in ("drawing", "corrected", "render")}
    say(f"{config.out}: {counts}")


if __name__ == "__main__":
    main()
