"""Dense truth for the VLM: what each cell of an image shows, and which cells hold what a text names.

A token of the vision tower sees a cell of 8 x 8 px. It must tell whether an object's centre lies in it, of which shape
and colour, and where in the image: objects keep such a distance that no cell holds two centres.

A token of the language model that ends a name ("a red star") must look at such objects, and tell in which cells they
are. A yes or no is one bit about several names at once: from that alone no name was bound to an object in 15 minutes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from microworld.scenes.captions import class_plural
from microworld.scenes.world import COLORS, FRAME_PX, SHAPES, Scene
from microworld.training.vlm_model import CELL_PX

if TYPE_CHECKING:
    import torch

_SHAPES, _COLORS = list(SHAPES), list(COLORS)
NUM_CELLS = FRAME_PX // CELL_PX  # a row, and a column, of a scene
NUM_OUTPUTS = len(_SHAPES) + 1 + len(_COLORS) + 2
NUM_PLACES = 5 * NUM_CELLS**2  # of one image, of two in one, and of two apart
_ONE = {**{name: i for i, name in enumerate(_SHAPES)}, **{class_plural(name): i for i, name in enumerate(_SHAPES)}}
_NAME = re.compile(rf"\b(?:({'|'.join(_COLORS)}) )?({'|'.join(sorted(_ONE, key=len, reverse=True))})\b")


def cell_targets(scenes: Sequence[Scene]) -> np.ndarray:
    """float32 (B, 16, 4): class (0 none, else 1 + shape), colour, and the centre's place (x, y) in cells, [0, 4)."""
    found = np.zeros((len(scenes), NUM_CELLS * NUM_CELLS, 4), np.float32)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            column, row = (min(max(int(v / CELL_PX), 0), NUM_CELLS - 1) for v in (item.cx, item.cy))
            place = (item.cx / CELL_PX, item.cy / CELL_PX)
            kind = 1 + _SHAPES.index(item.shape)
            found[b, row * NUM_CELLS + column] = (kind, _COLORS.index(item.color), *place)
    return found


def cells_side_by_side(cells: np.ndarray) -> np.ndarray:
    """Cells (2, 16, 4) of two images as those of both in one, from left to right: (32, 4)."""
    squares = cells.reshape(2, NUM_CELLS, NUM_CELLS, -1).copy()
    squares[1, ..., 2] += NUM_CELLS * (squares[1, ..., 0] > 0)
    return np.concatenate([squares[0], squares[1]], axis=1).reshape(2 * NUM_CELLS**2, -1)


def cell_loss(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """output (B, T, NUM_OUTPUTS), targets (B, T, 4): the loss, and the share of objects read fully right."""
    import torch.nn.functional as F

    kinds, colors, places = output.split([len(_SHAPES) + 1, len(_COLORS), 2], -1)
    wanted_kind, wanted_color = targets[..., 0].long(), targets[..., 1].long()
    there = wanted_kind > 0
    loss = 2 * F.cross_entropy(kinds.flatten(0, 1), wanted_kind.flatten())
    loss = loss + F.cross_entropy(colors[there], wanted_color[there])
    loss = loss + F.l1_loss(places[there], targets[..., 2:][there]) / 2
    hits = (kinds.argmax(-1) == wanted_kind)[there] & (colors.argmax(-1) == wanted_color)[there]
    return loss, hits.float().mean()


def find_names(text: str) -> list[tuple[int, int, int]]:
    """Every shape that a text names: the place of its last character, its number, and its colour's (-1: any)."""
    return [
        (match.end() - 1, _ONE[match[2]], _COLORS.index(match[1]) if match[1] else -1) for match in _NAME.finditer(text)
    ]


def places_of_names(names: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """bool (M, T): the cells that hold what each name says. names int64 (M, 4): row, column, shape, colour (-1: any).
    cells (B, T, 4)."""
    row, _, shape, color = names.unbind(1)
    kinds, colors = cells[row, :, 0].long(), cells[row, :, 1].long()
    return (kinds == 1 + shape[:, None]) & ((color[:, None] < 0) | (colors == color[:, None]))


def naming_loss(places: torch.Tensor, there: torch.Tensor, two_in_one: bool) -> torch.Tensor:
    """How badly the tokens that end a name tell where such objects are. places (M, NUM_PLACES): logits."""
    import torch

    one, num_cells = NUM_CELLS**2, there.shape[1]
    first = 0 if num_cells == one else one if two_in_one else 3 * one
    logits = places[:, first : first + num_cells].float()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, there.float(), reduction="none")
    return each.sum() / max(1, len(there))


def looking_loss(looks: torch.Tensor, there: torch.Tensor, image_columns: torch.Tensor) -> torch.Tensor:
    """How far from what a name says its last token looks. looks (M, L): attention logits over its row.

    It should look at the objects that it names and, as much as at one of them, at the token before the images: how much
    is left for that one tells how many they are.
    """
    import torch

    wanted = torch.zeros_like(looks)
    wanted[:, image_columns] = there.to(looks)
    wanted[:, image_columns[0] - 1] = 1.0
    wanted = wanted / wanted.sum(1, keepdim=True)
    spread = -(wanted * wanted.clamp(min=1e-9).log()).sum()
    return (-(wanted * looks.log_softmax(1)).sum() - spread) / max(1, len(looks))
