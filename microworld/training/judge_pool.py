"""Chunks of the judge's training images on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microworld.training.judge_data import EASY, Degrade, JudgeDataConfig, JudgeImages, make_images
from microworld.training.made_ahead import MadeAhead
from schemas.atomic_file import replacing

CHUNK_IMAGES = 1500


class JudgePool:
    """Images in `folder` as `chunk_000.npz`, ...; a resumed training finds them again. It grows while training goes
    on: early steps need little variety, later ones more. The first chunk is easy."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        config: JudgeDataConfig,
        degrade: Degrade | None,
        chunk: int = CHUNK_IMAGES,
        workers: int = 0,
    ) -> None:
        """chunk: images that one call of `grow` adds. workers: processes that make them."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._chunks = [_read(path) for path in sorted(folder.glob("chunk_*.npz"))]

        def make(index: int) -> JudgeImages:
            rng = np.random.default_rng([seed, 4242, index])
            shares = EASY if index == 0 else config
            made = [make_images(rng, min(250, chunk - i), shares, degrade) for i in range(0, chunk, 250)]
            return JudgeImages(
                *(np.concatenate([getattr(part, name) for part in made]) for name in JudgeImages.__dataclass_fields__)
            )

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

    def draw(self, rng: np.random.Generator, size: int) -> JudgeImages:
        """`size` images, uniformly with replacement, half of them mirrored (every shape is its own mirror image)."""
        chunk = self._chunks[rng.choice(len(self._chunks), p=[len(c) / len(self) for c in self._chunks])]
        batch = chunk.rows(rng.integers(0, len(chunk), size))
        mirrored = rng.random(size) < 0.5
        for array in (batch.images, batch.labels, batch.instances):
            array[mirrored] = array[mirrored, :, ::-1]
        return batch


def _read(path: Path) -> JudgeImages:
    with np.load(path) as arrays:
        return JudgeImages(**arrays)
