"""Teach the VLM's vision tower to see before it learns to speak: a few minutes that spare the language model many.

Each of the tower's tokens (a cell of 8 x 8 px) must tell whether an object's centre lies in it, of which shape and
colour, and where in the cell: objects keep such a distance that no cell holds two centres. The linear head is thrown
away afterwards; published VLMs start from a pretrained vision tower as well.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inference.micro.world import COLORS, FRAME_PX, SHAPES, Scene
from trainers.micro.training_loop import autocast, learning_rate_factor, set_learning_rate
from trainers.micro.vlm_data import SubjectSource
from trainers.micro.vlm_forward import PackedForward, patch_positions, patchify
from trainers.micro.vlm_model import CELL_PX

if TYPE_CHECKING:
    import torch

_SHAPES, _COLORS = list(SHAPES), list(COLORS)
_CELLS = FRAME_PX // CELL_PX
LONGEST_STEP_S = 1.0  # compiling, or a process that was stopped, is no training time
NUM_OUTPUTS = len(_SHAPES) + 1 + len(_COLORS) + 2


@dataclass(frozen=True)
class VisionPretraining:
    """At most `seconds`; ends earlier where `enough` of the objects' cells are read fully right."""

    seconds: float = 210.0
    enough: float = 0.995
    batch_size: int = 32  # images; as many as a step of pairs has, so that both compile to the same code
    learning_rate: float = 1.5e-3


def cell_targets(scenes: Sequence[Scene]) -> np.ndarray:
    """float32 (B, 16, 4): class (0 none, else 1 + shape), colour, and the centre's place in the cell in [0, 1]."""
    found = np.zeros((len(scenes), _CELLS * _CELLS, 4), np.float32)
    for b, scene in enumerate(scenes):
        for item in scene.objects:
            column, row = (min(max(int(v / CELL_PX), 0), _CELLS - 1) for v in (item.cx, item.cy))
            place = (item.cx / CELL_PX - column, item.cy / CELL_PX - row)
            kind = 1 + _SHAPES.index(item.shape)
            found[b, row * _CELLS + column] = (kind, _COLORS.index(item.color), *place)
    return found


def pretrain_vision(
    forward: PackedForward, source: SubjectSource, config: VisionPretraining, seed: int, use_bf16: bool
) -> float:
    """Train the vision tower in place; returns the running share of objects read fully right, in [0, 1]."""
    import torch
    from torch import nn

    visual = forward.model.model.visual
    device = next(visual.parameters()).device
    head: nn.Module = nn.Linear(forward.model.lm_head.in_features, NUM_OUTPUTS).to(device)
    parameters = [*visual.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = np.random.default_rng([seed, 80])
    spent_s = reported_s = right = 0.0
    num_images = 0
    while spent_s < config.seconds and right < config.enough:
        start = time.perf_counter()
        images, targets = _batch(rng, source, config.batch_size)
        positions = patch_positions(_CELLS, images.shape[2] // CELL_PX)
        with autocast(device.type, use_bf16):
            patches = torch.from_numpy(patchify(images)).to(device)
            features = forward.image_features(patches, torch.from_numpy(positions).to(device))
            output = head(features).float()
        loss, hits = _loss(output, torch.from_numpy(targets).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        factor = learning_rate_factor(spent_s / config.seconds, warmup=0.03, decay=0.4)
        set_learning_rate(optimizer, config.learning_rate * factor)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        right += 0.02 * (float(hits) - right)
        num_images += config.batch_size
        spent_s += min(time.perf_counter() - start, LONGEST_STEP_S)
        if spent_s - reported_s > 15:
            reported_s = spent_s
            progress = f"{spent_s:.0f}/{config.seconds:.0f} s  {num_images / spent_s:.0f}/s"
            print(f"vlm vision {progress}  loss {loss.item():.3f}  objects {right:.3f}", flush=True)
    return right


def _batch(rng: np.random.Generator, source: SubjectSource, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and cell targets; every other batch as two images side by side, as a comparison's grid shows them."""
    subjects = source.draw(rng, size)
    images, targets = np.stack([s.image for s in subjects]), cell_targets([s.scene for s in subjects])
    if rng.random() < 0.5:
        return images, targets
    cells = targets.reshape(size, _CELLS, _CELLS, -1)
    wide = np.concatenate([cells[::2], cells[1::2]], axis=2)
    return np.concatenate([images[::2], images[1::2]], axis=2), wide.reshape(size // 2, -1, cells.shape[-1])


def _loss(output: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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
