"""A row that every sound stage can do: what a stage is probed with."""

from dataclasses import replace

import numpy as np

from schemas.images import encode_png, sha256
from schemas.records import Candidate, PromptRow

SIZE_PX = 512


def plain_row(row: PromptRow, mark: str) -> PromptRow:
    """The row with a plain prompt and plain images instead of its own: what is left of it is its form. mark: makes it
    another one each time."""
    text = f"a red apple on a wooden table, number {mark}"
    ramp = np.linspace(40, 215, SIZE_PX, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(120)), axis=-1).copy()
    pixels[:8, :8] = np.frombuffer(mark.encode().ljust(8)[:8], np.uint8)[:, None]
    png = encode_png(pixels)

    def plain(candidate: Candidate) -> Candidate:
        candidate = replace(candidate, text=text)
        if candidate.image is None:
            return candidate
        return replace(candidate, image=png, width_px=SIZE_PX, height_px=SIZE_PX, image_sha256=sha256(png))

    return replace(
        row,
        prompt=replace(row.prompt, text=text),
        candidates=tuple(plain(candidate) for candidate in row.candidates),
        condensed=None if row.condensed is None else text,
        edit=None if row.edit is None else replace(row.edit, instruction="make the apple green"),
    )
