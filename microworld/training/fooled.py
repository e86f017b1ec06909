"""What fools a teacher: images of generators that it taught, with the truth about them as a plain reader sees it.

Sampled concepts (visual prompts and coloured shapes, none of a benchmark's references) are taught, the generator draws
now and then, and what comes out is kept as questions and right answers, which `trainers micro --model teacher` learns
where they lie in its --work-dir (`benchmarks.dual_process.fooling_images` makes them). What is right is read from the
pixels (`pixel_scorer`, and the rules below); where they cannot tell, the image is left out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.dual.concept import Concept, QuestionAnswer, concept_of
from inference.dual.questions import questions_about
from inference.vlm.overlays import ColorPalette, HorizonPosition, LineWeight, VisualComposition
from microworld.scenes.captions import PLACES, place_of, sample_training_caption
from microworld.scenes.edits import is_clearly_placed
from microworld.scenes.long_captions import composes_reserved, mentions
from microworld.scenes.overlay_questions import palette_of, sample_overlay, sketch_of
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Background, Scene, SceneObject, render
from microworld.training.pixel_scorer import FOREGROUND_DISTANCE, MID_TONES, read_scene
from microworld.training.vlm_data import NO, YES, ask
from microworld.training.vlm_rows import Turn
from schemas.atomic_file import replacing
from trainers.dual_process import DualProcess, NotConvergedError

FOLDER = "fooled"
KINDS = ("horizon", "line weight", "palette", "composition", "colour", "place")
OUTLINED = ("circle", "square", "heart", "diamond")  # whose lines can be read
HORIZON_STEP = 14.0  # RGB between what lies above and below
STROKES_READ_PX = np.arange(0.6, 4.4, 0.2)
_GROUND = np.array((140, 140, 140))


@dataclass(frozen=True, eq=False)
class FoolingImages:
    """images: uint8 (N, 32, 32, 3), with what is drawn over them; of each, one question and its true answer."""

    images: np.ndarray
    turns: list[Turn]

    def __len__(self) -> int:
        return len(self.turns)

    def save(self, path: Path) -> None:
        told = json.dumps([[turn.question, turn.answer] for turn in self.turns]).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=self.images, told=np.frombuffer(told, np.uint8))

    @classmethod
    def load(cls, folder: Path) -> FoolingImages:
        """Of all rounds of a folder; none where there is none."""
        images, turns = [np.zeros((0, FRAME_PX, FRAME_PX, 3), np.uint8)], []
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as kept:
                images.append(kept["images"])
                turns += [Turn("fooled", *one) for one in json.loads(kept["told"].tobytes())]
        return cls(np.concatenate(images), turns)


def looked_at(models: DualProcess, concept: Concept, folder: Path, every: int) -> Iterator[tuple[np.ndarray, Turn]]:
    """What the generator draws while it is taught, under each question's overlays, with what is true."""
    text = models.denoiser.encode(concept.prompt)
    drawn: list[np.ndarray] = []

    def look(point: Any) -> None:
        if (point.step + 1) % every == 0:
            drawn.extend(models.drawn(text, models.config.num_evaluated))

    with contextlib.suppress(NotConvergedError):  # what it draws now tells as much
        models.distill(concept, folder, on_step=look)
    for image in drawn:
        for asked in concept.questions:
            if (answer := truth(image, asked)) is not None:
                yield asked.shown(image), Turn("fooled", ask("yes_no", question=asked.question), YES if answer else NO)


def sample_concept(rng: np.random.Generator, kind: str) -> Concept:
    """A prompt that the generator knows, and what its images shall be."""
    name = kind.replace(" ", "_")
    if kind == "colour":
        while True:
            shape, color = str(rng.choice(list(SHAPES))), str(rng.choice(list(COLORS)))
            if not composes_reserved((SceneObject(shape, color, FRAME_PX / 2, FRAME_PX / 2, 11.0),)):
                break
        (*_, asked) = questions_about(f"a photo of a {color} {shape}")
        return concept_of(name, f"a photo of a {shape}", [asked])
    if kind == "place":
        shape, place = str(rng.choice(list(SHAPES))), str(rng.choice(list(PLACES.values())))
        asked = QuestionAnswer(f'Does the image match the prompt "a photo of a {shape} {place}"?')
        return concept_of(name, f"a photo of a {shape}", [asked])
    overlay = sample_overlay(rng, kind, True).prompt
    asked = QuestionAnswer(overlay.question, overlays=(overlay,))
    if kind == "line weight":
        return concept_of(name, f"a photo of a {rng.choice(OUTLINED)}", [asked])
    return concept_of(name, sample_training_caption(rng, _PROMPTS[kind]).text, [asked])


_PROMPTS = {
    "horizon": {"colors": 1.0},
    "palette": {"two_object": 1.0},
    "composition": {"colors": 0.5, "color_attr": 0.5},
}


# --- Reading ----------------------------------------------------------------------------------------------------------


def truth(image: np.ndarray, asked: QuestionAnswer) -> bool | None:
    """Whether an image, uint8 (32, 32, 3), is as a question asks; None where that cannot be said."""
    for overlay in asked.overlays:
        match overlay:
            case HorizonPosition():
                row = horizon_row(image)
                return _near(None if row is None else abs(row - overlay.y * FRAME_PX), 1.5, 3.5)
            case LineWeight():
                return _lines_are(image, overlay.weight * FRAME_PX)
            case ColorPalette():
                scene = read_scene(image)
                return bool(scene.objects) and set(palette_of(scene).colors) == set(overlay.colors)
            case VisualComposition():
                return _stands_so(read_scene(image), overlay.sketch)
            case _:
                return None
    scene, (said,) = read_scene(image, 0.03), mentions(asked.question)
    (color,), (place,) = (list(said.attributes & set(names)) or [""] for names in (COLORS, PLACES))
    return _stands_in(scene, said.shape, place) if place else _is_there(scene, said.shape, color)


def _near(distance: float | None, near: float, far: float) -> bool | None:
    """None between the two; what is not there is far."""
    if distance is None or distance >= far:
        return False
    return True if distance <= near else None


def horizon_row(image: np.ndarray) -> float | None:
    """Where the background changes along a row, in px from the top; None for one that does not."""
    pixels = image.astype(float)
    is_ground = np.linalg.norm(pixels - np.clip(pixels, *MID_TONES), axis=-1) <= FOREGROUND_DISTANCE
    rows = np.array(
        [
            np.median(line[seen], 0) if seen.sum() >= 8 else np.full(3, np.nan)
            for line, seen in zip(pixels, is_ground, strict=True)
        ]
    )
    best, place = 0.0, None
    for y in range(4, len(rows) - 4):
        above, below = rows[y - 3 : y], rows[y + 1 : y + 4]
        if np.isnan(above).any() or np.isnan(below).any():
            continue
        step = float(np.linalg.norm(above.mean(0) - below.mean(0)))
        spread = max(float(np.linalg.norm(np.ptp(part, axis=0))) for part in (above, below))
        if step > best and spread < step / 2:
            best, place = step, y
    return None if place is None or best < HORIZON_STEP else place + 0.5


def _lines_are(image: np.ndarray, wanted_px: float) -> bool | None:
    """Whether all that is drawn has lines of that thickness; filled shapes have none, unless thick lines fill them."""
    strokes = strokes_px(image)
    if not strokes:  # thin and blurred lines may be overlooked
        drawn = np.abs(image - np.median(image, axis=1, keepdims=True)).max()
        return False if drawn < FOREGROUND_DISTANCE / 2 else None
    if 0.0 in strokes:
        return None if wanted_px >= 2.5 else False
    off = [None if stroke is None else _near(abs(stroke - wanted_px), 0.35, 0.75) for stroke in strokes]
    return False if False in off else None if None in off else True


def strokes_px(image: np.ndarray) -> list[float | None]:
    """Of every drawing in an image, how thick its outline is: 0 for a filled one, None where no shape fits."""
    from scipy import ndimage

    pixels = image.astype(float)
    mask = np.linalg.norm(pixels - np.clip(pixels, *MID_TONES), axis=-1) > FOREGROUND_DISTANCE
    labels: np.ndarray = ndimage.label(mask, np.ones((3, 3)))[0]  # pyright: ignore
    found: list[float | None] = []
    for number in range(1, int(labels.max()) + 1):
        part = labels == number
        if part.sum() < 8:
            continue
        solid: np.ndarray = ndimage.binary_fill_holes(part)  # pyright: ignore
        hole = (solid & ~part).sum()
        if hole < 0.12 * solid.sum():  # thick lines nearly fill a small shape, and thin ones may have a gap
            height, width = np.ptp(np.nonzero(part), axis=1) + 1
            found.append(0.0 if not hole and part.sum() > max(25, 0.45 * height * width) else None)
            continue
        painted = np.where(solid[..., None], np.median(pixels[part], 0), pixels).astype(np.uint8)
        near = [item for item in read_scene(painted).objects if solid[_at(item.cy), _at(item.cx)]]
        if not near or near[0].shape == "blob":
            found.append(None)
            continue
        tone = np.median(pixels[~mask], axis=0).astype(int).tolist()
        scenes = [
            Scene(Background("plain", (tone[0], tone[1], tone[2])), (replace(near[0], stroke=float(s)),))
            for s in STROKES_READ_PX
        ]
        around: np.ndarray = ndimage.binary_dilation(solid, np.ones((3, 3)))  # pyright: ignore
        off = np.abs(render(scenes).images - pixels)[:, around].mean((1, 2))
        found.append(float(STROKES_READ_PX[int(np.argmin(off))]) if off.min() < 40 else None)
    return found


def _at(place: float) -> int:
    return int(np.clip(place, 0, FRAME_PX - 1))


def _stands_so(scene: Scene, sketch: np.ndarray) -> bool | None:
    """Whether the objects' squares are where the sketch has blocks of their colours."""
    if not scene.objects:
        return False
    drawn = sketch_of(scene).sketch
    blocks, wanted = (np.abs(one.astype(int) - _GROUND).max(-1) > 0 for one in (drawn, sketch))
    same = blocks & wanted & (np.abs(drawn.astype(int) - sketch).max(-1) < 60)
    share = same.sum() / max(1, (blocks | wanted).sum())
    return _near(1 - share, 0.25, 0.5)


def _stands_in(scene: Scene, shape: str, place: str) -> bool | None:
    """Whether a shape's centre is in a place; None where it is so near to the place's edge that the reader may err."""
    standing = [item for item in scene.objects if item.shape == shape]
    if not standing and any(item.shape == "blob" for item in scene.objects):
        return None
    if not all(is_clearly_placed(item) for item in standing):
        return None
    return any(place_of(item) == place for item in standing)


def _is_there(scene: Scene, shape: str, color: str) -> bool | None:
    if any(item.shape == shape and item.color == color for item in scene.objects):
        return True
    return None if any(item.shape == "blob" and item.color == color for item in scene.objects) else False
