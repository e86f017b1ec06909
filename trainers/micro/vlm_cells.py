"""What each cell of an image shows: dense truth for the VLM's vision tower.

A token of the tower sees a cell of 8 x 8 px. It must tell whether an object's centre lies in it, of which shape and
colour, and where in the cell: objects keep such a distance that no cell holds two centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inference.micro.world import COLORS, FRAME_PX, SHAPES, Scene
from trainers.micro.vlm_model import CELL_PX

if TYPE_CHECKING:
    import torch

_SHAPES, _COLORS = list(SHAPES), list(COLORS)
NUM_CELLS = FRAME_PX // CELL_PX  # a row, and a column, of a scene
NUM_OUTPUTS = len(_SHAPES) + 1 + len(_COLORS) + 2


def cell_targets(scenes: Sequence[Scene]) -> np.ndarray:
    """float32 (B, 16, 4): class (0 none, else 1 + shape), colour, and the centre's place in the cell in [0, 1]."""
    found = np.zeros((len(scenes), NUM_CELLS * NUM_CELLS, 4), np.float32)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            column, row = (min(max(int(v / CELL_PX), 0), NUM_CELLS - 1) for v in (item.cx, item.cy))
            place = (item.cx / CELL_PX - column, item.cy / CELL_PX - row)
            kind = 1 + _SHAPES.index(item.shape)
            found[b, row * NUM_CELLS + column] = (kind, _COLORS.index(item.color), *place)
    return found


def cells_side_by_side(cells: np.ndarray) -> np.ndarray:
    """Cells (2, 16, 4) of two images as those of both in one, from left to right: (32, 4)."""
    squares = cells.reshape(2, NUM_CELLS, NUM_CELLS, -1)
    return np.concatenate([squares[0], squares[1]], axis=1).reshape(2 * NUM_CELLS**2, -1)


def cell_loss(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """output (B, T, NUM_OUTPUTS), targets (B, T, 4): the loss, and the share of objects read fully right."""
    import torch.nn.functional as F

    kinds, colors, places = output.split([len(_SHAPES) + 1, len(_COLORS), 2], -1)
    wanted_kind, wanted_color = targets[..., 0].long(), targets[..., 1].long()
    there = wanted_kind > 0
    loss = 2 * F.cross_entropy(kinds.flatten(0, 1), wanted_kind.flatten())
    loss = loss + F.cross_entropy(colors[there], wanted_color[there])
    loss = loss + F.l1_loss(places[there], targets[..., 2:][there])
    hits = (kinds.argmax(-1) == wanted_kind)[there] & (colors.argmax(-1) == wanted_color)[there]
    return loss, hits.float().mean()
