"""`python -m microworld.scenes.edit_file --out edits.parquet`: edits of the micro world in OmniEdit's columns.

A scene, the same scene after one operation, and the instruction between the two. A tenth of them are as real files are:
badly edited ones with low scores, and a few with equal images.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microworld.scenes.edits import sample_edit
from microworld.scenes.instructions import Edit, instruction
from microworld.scenes.world import FRAME_PX, Scene, random_scene, render
from schemas.atomic_file import write_whole
from schemas.images import encode_png

_TASKS = {
    "add": "addition",
    "remove": "removal",
    "recolor": "attribute_modification",
    "reshape": "object_swap",
    "move": "attribute_modification",
    "recount": "addition",
}


@dataclass(frozen=True)
class EditFileArgs:
    """Write editing triplets of the micro world."""

    out: Path
    """File to write: .parquet, or .tar for a WebDataset."""
    num_rows: int = 48
    seed: int = 0
    flawed_share: float = 0.1
    """Share of triplets whose edit went wrong, with the low scores that OmniEdit gives such."""


def sample_edit_scenes(seed: int, number: int, flawed_share: float = 0.1) -> tuple[Scene, Scene, Edit, int]:
    """The scenes before and after, the edit that was asked for, and how well it was done, 0 to 10."""
    rng = np.random.default_rng([seed, 91, number])
    before = random_scene(rng)
    edit, after = sample_edit(rng, before)
    if rng.random() >= flawed_share:
        return before, after, edit, 10
    score = int(rng.integers(2, 7))
    return before, before if rng.random() < 0.3 else sample_edit(rng, before)[1], edit, score


def sample_edit_row(seed: int, number: int, flawed_share: float = 0.1) -> dict[str, Any]:
    """One triplet with OmniEdit's columns, images as PNG bytes; it depends on the seed and its number alone."""
    before, after, edit, score = sample_edit_scenes(seed, number, flawed_share)
    rng = np.random.default_rng([seed, 93, number])
    source, edited = render([before, after]).images
    return {
        "omni_edit_id": f"micro_{seed}_{number}",
        "task": _TASKS.get(edit.operation.value, "attribute_modification"),
        "src_img": encode_png(source),
        "edited_img": encode_png(edited),
        "edited_prompt_list": [instruction(edit), instruction(edit, rng)],
        "width": FRAME_PX,
        "height": FRAME_PX,
        "sc_score_1": score,
        "sc_score_2": score,
        "pq_score": 10,
        "o_score": score,
    }


def write_edit_file(path: Path, num_rows: int, seed: int, flawed_share: float = 0.1) -> None:
    """A Parquet file, or with the suffix .tar a WebDataset; written whole or not at all."""
    rows = [sample_edit_row(seed, number, flawed_share) for number in range(num_rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _as_tar(rows) if path.suffix == ".tar" else _as_parquet(rows))


def _as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=100)
    return buffer.getvalue()


def _as_tar(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            images = {name: row.pop(name) for name in ("src_img", "edited_img")}
            members = {**{f"{name}.png": data for name, data in images.items()}, "json": json.dumps(row).encode()}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{row['omni_edit_id']}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def main() -> None:
    import tyro

    arguments = tyro.cli(EditFileArgs)
    write_edit_file(arguments.out, arguments.num_rows, arguments.seed, arguments.flawed_share)
    print(f"{arguments.out}: {arguments.num_rows} editing triplets")


if __name__ == "__main__":
    main()
