"""A pool of captioned scenes, rendered and encoded once: a training step then needs no pixels.

The pool lives in `folder` as chunks (`chunk_000.npz`, written atomically), so a resumed training finds it again. It
grows while training goes on: early steps need little variety, later ones more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.micro.captions import sample_scene, sample_training_caption
from inference.micro.world import render
from trainers.micro.flux_model import T5_LENGTH

if TYPE_CHECKING:
    import torch

CLIP_TRAINING_LENGTH = T5_LENGTH + 2


@dataclass
class EncodedScenes:
    """latents float16 (N, 4, 8, 8), normalised; token ids int16 (N, T5_LENGTH) and (N, CLIP_TRAINING_LENGTH)."""

    latents: np.ndarray
    t5_ids: np.ndarray
    clip_ids: np.ndarray


class Tokenize:
    """Captions -> padded int16 ids for T5 and CLIP."""

    def __init__(self) -> None:
        from trainers.micro.flux_model import build_tokenizer

        self._t5, self._clip = build_tokenizer(clip=False), build_tokenizer(clip=True)

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        t5 = self._t5(texts, padding="max_length", max_length=T5_LENGTH, truncation=True)
        clip = self._clip(texts, padding="max_length", max_length=CLIP_TRAINING_LENGTH, truncation=True)
        return np.array(t5.input_ids, np.int16), np.array(clip.input_ids, np.int16)


class LatentPool:
    def __init__(self, folder: Path, encode: Callable[[np.ndarray], torch.Tensor], seed: int) -> None:
        """`encode` turns uint8 images (B, 32, 32, 3) into normalised latents (B, 4, 8, 8)."""
        self._folder, self._encode, self._seed = folder, encode, seed
        self._tokenize = Tokenize()
        folder.mkdir(parents=True, exist_ok=True)
        self._chunks = [self._read(path) for path in sorted(folder.glob("chunk_*.npz"))]

    def __len__(self) -> int:
        return sum(len(chunk.latents) for chunk in self._chunks)

    def grow(self, num_scenes: int) -> None:
        """Render and encode `num_scenes` more as one chunk."""
        index = len(self._chunks)
        rng = np.random.default_rng([self._seed, 77, index])
        captions = [sample_training_caption(rng) for _ in range(num_scenes)]
        scenes = [sample_scene(rng, caption) for caption in captions]
        latents = [
            self._encode(render(scenes[i : i + 250]).images).cpu().numpy().astype(np.float16)
            for i in range(0, num_scenes, 250)
        ]
        t5_ids, clip_ids = self._tokenize([caption.text for caption in captions])
        path = self._folder / f"chunk_{index:03d}.npz"
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, latents=np.concatenate(latents), t5_ids=t5_ids, clip_ids=clip_ids)
        os.replace(temporary, path)
        self._chunks.append(self._read(path))

    def draw(self, rng: np.random.Generator, size: int) -> EncodedScenes:
        """`size` scenes, uniformly with replacement."""
        sizes = np.array([len(chunk.latents) for chunk in self._chunks])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        picks = rng.integers(starts[-1], size=size)
        owners = np.searchsorted(starts, picks, side="right") - 1
        parts = [(self._chunks[c], picks[owners == c] - starts[c]) for c in np.unique(owners)]
        return EncodedScenes(
            np.concatenate([chunk.latents[rows] for chunk, rows in parts]),
            np.concatenate([chunk.t5_ids[rows] for chunk, rows in parts]),
            np.concatenate([chunk.clip_ids[rows] for chunk, rows in parts]),
        )

    @staticmethod
    def _read(path: Path) -> EncodedScenes:
        with np.load(path) as arrays:
            return EncodedScenes(arrays["latents"], arrays["t5_ids"], arrays["clip_ids"])
