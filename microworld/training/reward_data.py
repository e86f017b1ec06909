"""What the three micro rewards learn from: captioned scenes beside what is worse, in three different senses.

- `near_miss`: a caption that is almost true of the image (another colour, shape, number, place);
- `spoil`: the same scene badly drawn (fused, smeared, half another shape, melted, faded, noisy);
- `wrong_image`: another scene, well drawn, that the caption is not true of.

A share of the good images is what the micro generator drew right, beside what it drew wrong of the same caption:
scorers that had seen renders alone ordered .9 of rendered pairs and less than .6 of generated ones. Images are made in
chunks on disk, so that data does not cost the training step. The damage is done to rendered images and to their
latents; it has nothing in common with the judge's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from microworld.scenes.captions import (
    RELATIONS,
    Caption,
    caption_from_clauses,
    is_reserved,
    is_true_of,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.edits import sample_edit, wrong_scene
from microworld.scenes.long_captions import LONG, describe, sample_long_caption
from microworld.scenes.world import COLORS, SHAPES, Scene, SceneObject, render
from microworld.training.flux_model import CLIP_LENGTH
from microworld.training.latent_pool import token_labels
from microworld.training.made_ahead import MadeAhead
from microworld.training.vae_noise import VaeNoise
from microworld.training.vlm_images import PooledImage, can_be_told
from schemas.atomic_file import replacing

Worse = Literal["near_miss", "spoil", "wrong_image"]
SHORT_TEXT = 20  # tokens; most captions are shorter, and texts of one batch are padded to one length
LONG_SHARE = 0.2
DRAWN_SHARE = 0.5  # of the examples, where there are images of the generator
CHUNK_EXAMPLES = 1000


@dataclass
class Examples:
    """good and bad images uint8 (N, 32, 32, 3) (bad is black for `near_miss`); ids and other_ids int16
    (N, CLIP_LENGTH), the caption and one that is not true of the good image; scenes int64 (N,), a number for the shapes
    in it; shapes and colors uint8 (N, 16), what each of the 4 x 4 tiles of the good image shows."""

    good: np.ndarray
    bad: np.ndarray
    ids: np.ndarray
    other_ids: np.ndarray
    scenes: np.ndarray
    shapes: np.ndarray
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.good)

    def rows(self, index: np.ndarray) -> Examples:
        return Examples(*(getattr(self, f.name)[index] for f in fields(self)))


@dataclass(frozen=True)
class Drawn:
    """What the generator drew of one caption, right and wrong, by the pixel scorer."""

    right: tuple[PooledImage, ...]
    wrong: tuple[PooledImage, ...]

    def worse(self, rng: np.random.Generator, kind: Worse) -> PooledImage:
        """A wrong one; for `spoil` one without clear shapes, where there is any."""
        spoilt = [item for item in self.wrong if not can_be_told(item.scene)] if kind == "spoil" else []
        choice = spoilt or self.wrong
        return choice[int(rng.integers(len(choice)))]


def drawn_both_ways(items: Sequence[PooledImage]) -> list[Drawn]:
    """Captions of neighbours of which some are right and some wrong. A right image has clear shapes alone."""
    found = []
    for caption, group in groupby(items, key=lambda item: item.caption):
        right, wrong = [], []
        for item in group:
            if not is_true_of(caption, item.scene):
                wrong.append(item)
            elif can_be_told(item.scene):
                right.append(item)
        if right and wrong:
            found.append(Drawn(tuple(right), tuple(wrong)))
    return found


def make_examples(
    rng: np.random.Generator, count: int, worse: Worse, vae: VaeNoise, drawn: Sequence[Drawn] = ()
) -> tuple[Examples, list[str]]:
    """`count` fresh examples and their captions; a share is taken from `drawn`."""
    texts, others, scenes, wrong = [], [], [], []
    generated: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # number of the example -> good and bad image
    for number in range(count):
        if drawn and rng.random() < DRAWN_SHARE:
            one = drawn[int(rng.integers(len(drawn)))]
            image = one.right[int(rng.integers(len(one.right)))]
            text, scene, after = image.caption.text, image.scene, image.scene
            if image.caption.tag == LONG:
                other = describe(sample_edit(rng, scene)[1], rng)
            else:
                other = near_miss(rng, image.caption, scene).text
            generated[number] = (image.image, one.worse(rng, worse).image)
        elif rng.random() < LONG_SHARE:
            text, scene = sample_long_caption(rng)
            _, after = sample_edit(rng, scene)
            other = describe(after, rng)
        else:
            caption = sample_training_caption(rng)
            text, scene = caption.text, sample_scene(rng, caption)
            _, after = wrong_scene(rng, caption, scene)
            other = near_miss(rng, caption, scene).text
        texts.append(text)
        others.append(other)
        scenes.append(scene)
        wrong.append(after)
    rendered = render(scenes)
    shapes, colors = token_labels(scenes, rendered)
    good = vae(rng, rendered.images)
    if worse == "spoil":
        bad = spoil(rng, scenes, rendered.images, vae)
    elif worse == "wrong_image":
        bad = vae(rng, render(wrong).images)
    else:
        bad = np.zeros_like(good)
    for number, pair in generated.items():
        good[number] = pair[0]
        if worse != "near_miss":
            bad[number] = pair[1]
    tokenizer = _tokenizer()
    ids, other_ids = (
        np.array(tokenizer(t, padding="max_length", max_length=CLIP_LENGTH, truncation=True).input_ids, np.int16)
        for t in (texts, others)
    )
    keys = [zlib.crc32(" ".join(sorted(o.shape for o in scene.objects)).encode()) for scene in scenes]
    return Examples(good, bad, ids, other_ids, np.array(keys, np.int64), shapes, colors), texts


def _tokenizer():
    from microworld.training.flux_model import build_tokenizer

    return build_tokenizer(clip=True)


def near_miss(rng: np.random.Generator, caption: Caption, scene: Scene) -> Caption:
    """`caption` with one thing changed (a shape, colour, number or relation, or two shapes swapped), so that it is not
    true of `scene`; never a composition that is kept for benchmarks."""
    while True:
        clauses = list(caption.clauses)
        index = int(rng.integers(len(clauses)))
        clause = clauses[index]
        draw = rng.random()
        if len(clauses) == 2 and draw < 0.3:
            first, second = clauses
            clauses = [replace(first, shape=second.shape), replace(second, shape=first.shape)]
        elif clause.relation and draw < 0.65:
            clauses[index] = replace(
                clause, relation=(_another(rng, RELATIONS, clause.relation[0]), clause.relation[1])
            )
        elif clause.color and draw < 0.65:
            clauses[index] = replace(clause, color=_another(rng, COLORS, clause.color))
        elif caption.tag in ("counting", "colors") and draw < 0.65:
            clauses[index] = replace(clause, count=int(rng.integers(1 if caption.tag == "colors" else 2, 5)))
        else:
            clauses[index] = replace(clause, shape=_another(rng, SHAPES, clause.shape))
        other = caption_from_clauses(caption.tag, tuple(clauses))
        if len({c.shape for c in clauses}) == len(clauses) and not is_true_of(other, scene) and not is_reserved(other):
            return other


def _another(rng: np.random.Generator, names: Iterable[str], name: str) -> str:
    return str(rng.choice([other for other in names if other != name]))


def spoil(rng: np.random.Generator, scenes: list[Scene], images: np.ndarray, vae: VaeNoise) -> np.ndarray:
    """The scenes badly drawn: uint8 (N, 32, 32, 3), in one of six ways each."""
    count = len(scenes)
    kinds = rng.integers(0, 6, count)
    moved = [
        _fuse(rng, scene) if kind == 0 else _reshape_one(rng, scene) for scene, kind in zip(scenes, kinds, strict=True)
    ]
    second = render(moved).images
    out = np.where((kinds == 0)[:, None, None, None], second, images)
    halved = np.flatnonzero(kinds == 1)
    for i in halved:
        out[i] = np.where(_half(rng, scenes[i], moved[i])[..., None], second[i], images[i])
    smeared = np.flatnonzero(kinds == 2)
    out[smeared] = _smear(rng, images[smeared])
    faded = np.flatnonzero(kinds == 3)
    for i in faded:
        out[i] = _erase(rng, scenes[i], images[i])
    # Melted: halfway between two scenes in the VAE's latents. Noisy: the same, far from any.
    latents = vae.encode(images)
    melted, noisy = np.flatnonzero(kinds == 4), np.flatnonzero(kinds == 5)
    weight = rng.uniform(0.35, 0.65)
    latents[melted] = (1 - weight) * latents[melted] + weight * vae.encode(second)[melted]
    latents[noisy] = vae.disturb(rng, latents[noisy], rng.uniform(1.5, 5.0, len(noisy)))
    through = np.concatenate([melted, noisy])
    out[through] = vae.decode(latents[through])
    rest = np.flatnonzero(kinds < 4)
    out[rest] = vae(rng, out[rest])
    return out


def _one(rng: np.random.Generator, scene: Scene) -> int:
    return int(rng.integers(len(scene.objects)))


def _reshape_one(rng: np.random.Generator, scene: Scene) -> Scene:
    index = _one(rng, scene)
    item = scene.objects[index]
    shape = _another(rng, SHAPES, item.shape)
    return replace(
        scene, objects=tuple(replace(o, shape=shape) if i == index else o for i, o in enumerate(scene.objects))
    )


def _fuse(rng: np.random.Generator, scene: Scene) -> Scene:
    """Two objects grown together; a lone one gets a companion that was not asked for."""
    index = _one(rng, scene)
    item = scene.objects[index]
    angle, away = rng.uniform(0, 2 * np.pi), item.size * rng.uniform(0.35, 0.7)
    others = [o for i, o in enumerate(scene.objects) if i != index]
    partner = others[rng.integers(len(others))] if others else replace(item, size=item.size * 0.8)
    partner = replace(partner, cx=item.cx + away * np.cos(angle), cy=item.cy + away * np.sin(angle))
    kept = others[: len(others) - 1] if others else []
    objects: tuple[SceneObject, ...] = (*kept, item, partner)
    return replace(scene, objects=objects)


def _half(rng: np.random.Generator, scene: Scene, other: Scene) -> np.ndarray:
    """bool (32, 32): one side of a line through the object that differs between two scenes."""
    changed = next(a for a, b in zip(scene.objects, other.objects, strict=True) if a != b)
    y, x = np.mgrid[:32, :32] + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return (x - changed.cx) * np.cos(angle) + (y - changed.cy) * np.sin(angle) > 0


def _smear(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Pixels taken from up to a few px away, smoothly: shapes lose their outlines."""
    from scipy.ndimage import gaussian_filter

    count = len(images)
    shift = gaussian_filter(rng.standard_normal((2, count, 32, 32)), (0, 0, 2.0, 2.0))
    shift *= rng.uniform(1.5, 3.0, (1, count, 1, 1)) / np.maximum(shift.std((2, 3), keepdims=True), 1e-6)
    rows = np.clip(np.rint(np.arange(32)[None, :, None] + shift[0]), 0, 31).astype(int)
    columns = np.clip(np.rint(np.arange(32)[None, None, :] + shift[1]), 0, 31).astype(int)
    return images[np.arange(count)[:, None, None], rows, columns]


def _erase(rng: np.random.Generator, scene: Scene, image: np.ndarray) -> np.ndarray:
    """One object faded, wholly or on one side, into what is behind it."""
    item = scene.objects[_one(rng, scene)]
    behind = render([replace(scene, objects=tuple(o for o in scene.objects if o is not item))]).images[0]
    y, x = np.mgrid[:32, :32] + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    side = (x - item.cx) * np.cos(angle) + (y - item.cy) * np.sin(angle) > rng.uniform(-0.2, 0.2) * item.size
    gone = np.where(side | (rng.random() < 0.4), rng.uniform(0.6, 1.0), 0.0)[..., None]
    return np.rint(image * (1 - gone) + behind * gone).astype(np.uint8)


class RewardPool:
    """Examples in `folder` as `chunk_000.npz`, ...; a resumed training finds them again, and it grows."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        worse: Worse,
        vae: VaeNoise,
        drawn: Sequence[Drawn] = (),
        chunk: int = CHUNK_EXAMPLES,
        workers: int = 0,
    ) -> None:
        """chunk: examples that one call of `grow` adds. workers: processes that make them."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._chunks = [self._read(path) for path in sorted(folder.glob("chunk_*.npz"))]

        def make(index: int) -> Examples:
            rng = np.random.default_rng([seed, *worse.encode(), index])
            return make_examples(rng, chunk, worse, vae, drawn)[0]

        self._made = MadeAhead(make, workers, first=len(self._chunks), ahead=2)

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._chunks)

    def grow(self) -> None:
        """One more chunk."""
        index, whole = len(self._chunks), self._made.next()
        path = self._folder / f"chunk_{index:03d}.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **vars(whole))
        self._chunks.append(whole)

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Examples, int]:
        """`size` examples whose texts are all short or all long, by their share; and how many tokens they need."""
        chunk = self._chunks[rng.choice(len(self._chunks), p=[len(c) / len(self) for c in self._chunks])]
        lengths = np.maximum((chunk.ids != 0).sum(1), (chunk.other_ids != 0).sum(1))
        short = lengths <= SHORT_TEXT
        kind = rng.random() < short.mean()
        index = rng.choice(np.flatnonzero(short == kind), size)
        return chunk.rows(index), int(lengths[index].max())

    @staticmethod
    def _read(path: Path) -> Examples:
        with np.load(path) as arrays:
            return Examples(**arrays)
