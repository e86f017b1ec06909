"""A pool of captioned scenes, rendered and encoded once: a training step then needs no pixels.

The pool lives in `folder` as chunks (`chunk_000.npz`, written atomically), so a resumed training finds it again. It
grows while training goes on: early steps need little variety, later ones more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microworld.scenes.captions import sample_captioned_scene
from microworld.scenes.instructed_captions import sample_instructed_caption
from microworld.scenes.long_captions import sample_long_caption
from microworld.scenes.world import COLORS, SHAPES, Rendered, Scene, render
from microworld.training.flux_model import TEXT_LENGTHS
from schemas.atomic_file import replacing

if TYPE_CHECKING:
    import torch

NUM_TOKENS = 16  # image tokens: 4 x 4 of 8 x 8 px
MIN_TOKEN_COVER_PX = 12  # an object is what a token shows where it covers this many of the token's 64 px

# Share of the pool; the rest are captions of GenEval's six tags.
LONG_CAPTION_SHARE = 0.15
INSTRUCTED_SHARE = 0.22

_SHAPE_NUMBER = {name: i for i, name in enumerate(SHAPES, start=1)}
_COLOR_NUMBER = {name: i for i, name in enumerate(COLORS, start=1)}


@dataclass
class EncodedScenes:
    """Scenes whose text has one padded length L.

    latents float16 (N, 4, 8, 8), normalised; token ids int16 t5_ids (N, L) and clip_ids (N, L + 2); shapes and colors
    uint8 (N, 16): the number (from 1, in the world's order) of what each image token shows, 0 for background.
    """

    latents: np.ndarray
    t5_ids: np.ndarray
    clip_ids: np.ndarray
    shapes: np.ndarray
    colors: np.ndarray

    def rows(self, index: np.ndarray) -> EncodedScenes:
        return EncodedScenes(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


class Tokenize:
    """Captions -> ids for T5 and CLIP, padded to the longest of `TEXT_LENGTHS` (CLIP: two more)."""

    def __init__(self) -> None:
        from microworld.training.flux_model import build_tokenizer

        self._t5, self._clip = build_tokenizer(clip=False), build_tokenizer(clip=True)

    def __call__(self, texts: list[str], length: int = TEXT_LENGTHS[-1]) -> tuple[np.ndarray, np.ndarray]:
        """int16 (N, length) and (N, length + 2)."""
        t5 = self._t5(texts, padding="max_length", max_length=length, truncation=True)
        clip = self._clip(texts, padding="max_length", max_length=length + 2, truncation=True)
        return np.array(t5.input_ids, np.int16), np.array(clip.input_ids, np.int16)

    def num_tokens(self, texts: list[str]) -> np.ndarray:
        """T5 tokens of each text, its end token included."""
        return np.array([len(ids) for ids in self._t5(texts).input_ids])


def sample_training_text(rng: np.random.Generator) -> tuple[str, Scene]:
    """A text and a scene that it is true of: a caption, a long one, or a caption with an instruction that was followed.

    The corrector's LoRA never touches the text branch, so the base model must know the words of instructions.
    """
    draw = rng.random()
    if draw < LONG_CAPTION_SHARE:
        return sample_long_caption(rng)
    if draw < LONG_CAPTION_SHARE + INSTRUCTED_SHARE:
        return sample_instructed_caption(rng)
    return sample_captioned_scene(rng)


def token_labels(scenes: list[Scene], rendered: Rendered) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, 16) each: the shape's and the colour's number that every image token shows, 0 for background."""
    shapes = np.zeros((len(scenes), NUM_TOKENS), np.uint8)
    colors = np.zeros((len(scenes), NUM_TOKENS), np.uint8)
    for i, (scene, masks) in enumerate(zip(scenes, rendered.masks, strict=True)):
        if not scene.objects:
            continue
        cover = masks.reshape(len(masks), 4, 8, 4, 8).sum((2, 4)).reshape(len(masks), NUM_TOKENS)
        owner, seen = cover.argmax(0), cover.max(0) >= MIN_TOKEN_COVER_PX
        shapes[i] = np.array([_SHAPE_NUMBER[o.shape] for o in scene.objects], np.uint8)[owner] * seen
        colors[i] = np.array([_COLOR_NUMBER[o.color] for o in scene.objects], np.uint8)[owner] * seen
    return shapes, colors


class LatentPool:
    def __init__(self, folder: Path, encode: Callable[[np.ndarray], torch.Tensor], seed: int) -> None:
        """`encode` turns uint8 images (B, 32, 32, 3) into normalised latents (B, 4, 8, 8)."""
        self._folder, self._encode, self._seed = folder, encode, seed
        self._tokenize = Tokenize()
        folder.mkdir(parents=True, exist_ok=True)
        self._chunks: list[dict[int, EncodedScenes]] = [self._read(path) for path in sorted(folder.glob("chunk_*.npz"))]

    def __len__(self) -> int:
        return sum(len(part.latents) for chunk in self._chunks for part in chunk.values())

    def grow(self, num_scenes: int) -> None:
        """Render and encode `num_scenes` more as one chunk."""
        index = len(self._chunks)
        rng = np.random.default_rng([self._seed, 77, index])
        texts, scenes = map(list, zip(*(sample_training_text(rng) for _ in range(num_scenes)), strict=True))
        latents, shapes, colors = [], [], []
        for i in range(0, num_scenes, 250):
            rendered = render(scenes[i : i + 250])
            latents.append(self._encode(rendered.images).cpu().numpy().astype(np.float16))
            part_shapes, part_colors = token_labels(scenes[i : i + 250], rendered)
            shapes.append(part_shapes)
            colors.append(part_colors)
        t5_ids, clip_ids = self._tokenize(texts)
        arrays = {
            "latents": np.concatenate(latents),
            "t5_ids": t5_ids,
            "clip_ids": clip_ids,
            "shapes": np.concatenate(shapes),
            "colors": np.concatenate(colors),
            "num_tokens": self._tokenize.num_tokens(texts).astype(np.int16),
        }
        path = self._folder / f"chunk_{index:03d}.npz"
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
        self._chunks.append(self._read(path))

    def draw(self, rng: np.random.Generator, size: int, length: int | None = None) -> EncodedScenes:
        """`size` scenes of one text length, with replacement; which length, unless given, by its share of the pool."""
        if length is None:
            totals = [sum(len(chunk[n].latents) for chunk in self._chunks) for n in TEXT_LENGTHS]
            length = TEXT_LENGTHS[rng.choice(len(TEXT_LENGTHS), p=np.array(totals) / sum(totals))]
        starts = np.cumsum([0, *(len(chunk[length].latents) for chunk in self._chunks)])
        picks = rng.integers(starts[-1], size=size)
        owners = np.searchsorted(starts, picks, side="right") - 1
        parts = [self._chunks[c][length].rows(picks[owners == c] - starts[c]) for c in np.unique(owners)]
        names = EncodedScenes.__dataclass_fields__
        return EncodedScenes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    @staticmethod
    def _read(path: Path) -> dict[int, EncodedScenes]:
        with np.load(path) as file:
            arrays = dict(file)
        whole = EncodedScenes(*(arrays[name] for name in EncodedScenes.__dataclass_fields__))
        bucket = np.searchsorted(TEXT_LENGTHS, arrays["num_tokens"])
        parts = {}
        for i, length in enumerate(TEXT_LENGTHS):
            part = whole.rows(np.flatnonzero(bucket == i))
            part.t5_ids, part.clip_ids = part.t5_ids[:, :length], part.clip_ids[:, : length + 2]
            parts[length] = part
        return parts
