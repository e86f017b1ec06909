"""A unit's images as one flat list, and what came of them back to the rows: models take many images at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from schemas.images import decode_image, encode_png, sha256
from schemas.records import Candidate, PromptRow

T = TypeVar("T")


@dataclass(frozen=True)
class FlatImages:
    """Images uint8 (H, W, 3) of all candidates of all rows, and the row of each."""

    images: list[np.ndarray]
    rows: list[PromptRow]

    @property
    def texts(self) -> list[str]:
        """The user's prompt of each image, whatever it was drawn from."""
        return [row.prompt.text for row in self.rows]


def image_of(row: PromptRow, candidate: Candidate) -> np.ndarray:
    """One candidate's image. CorruptDataError names prompt and candidate."""
    return decode_image(candidate.image or b"", f"{row.prompt.prompt_id} candidate {candidate.index}")


def flat_images(rows: Sequence[PromptRow]) -> FlatImages:
    """Every candidate's image, row after row."""
    owners = [(row, candidate) for row in rows for candidate in row.candidates]
    return FlatImages([image_of(row, candidate) for row, candidate in owners], [row for row, _ in owners])


def by_row(rows: Sequence[PromptRow], values: Iterable[T]) -> list[list[T]]:
    """One value for each image of `flat_images(rows)` -> the values of each row. ValueError for another number."""
    left = iter(values)
    try:
        grouped = [[next(left) for _ in row.candidates] for row in rows]
    except (StopIteration, RuntimeError) as error:
        raise ValueError("fewer values than images") from error
    if next(left, None) is not None:
        raise ValueError("more values than images")
    return grouped


def drawn_candidate(index: int, seed: int, text: str, num_steps: int, image: np.ndarray) -> Candidate:
    """A candidate of an image uint8 (H, W, 3), packed as PNG. text: what it was drawn from."""
    png = encode_png(np.ascontiguousarray(image))
    height_px, width_px = image.shape[:2]
    return Candidate(
        index=index,
        seed=seed,
        text=text,
        num_steps=num_steps,
        width_px=width_px,
        height_px=height_px,
        image_sha256=sha256(png),
        image=png,
    )
