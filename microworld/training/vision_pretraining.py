"""Teach the VLM's vision tower to see before it learns to speak: a few minutes that spare the language model many.

Each of the tower's tokens must tell what its cell shows (`vlm_cells`), by a linear head that is thrown away after the
training; published VLMs start from a pretrained vision tower as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microworld.training.made_ahead import MadeAhead
from microworld.training.training_loop import autocast, learning_rate_factor
from microworld.training.vlm_cells import NUM_CELLS, cell_loss, cell_targets, cells_side_by_side
from microworld.training.vlm_data import SubjectSource
from microworld.training.vlm_forward import PackedForward, patch_positions, patchify
from microworld.training.vlm_model import CELL_PX
from trainers.optimizer import set_learning_rate

if TYPE_CHECKING:
    from torch import nn

LONGEST_STEP_S = 1.0  # compiling, or a process that was stopped, is no training time


@dataclass(frozen=True)
class VisionPretraining:
    """At most `seconds`; ends earlier where `enough` of the objects' cells are read fully right.

    An answer about two objects needs both: after 210 s, at .88, the language model learnt little more than half of what
    it was asked.
    """

    seconds: float = 600.0
    enough: float = 0.995
    batch_size: int = 32  # images; as many as a step of pairs has, so that both compile to the same code
    learning_rate: float = 1.5e-3
    muon_learning_rate: float = 1.2e-3  # of the matrices inside blocks


def pretrain_vision(
    forward: PackedForward,
    head: nn.Module,
    source: SubjectSource,
    config: VisionPretraining,
    seed: int,
    use_bf16: bool,
    data_workers: int = 0,
) -> float:
    """Train the vision tower and `head` (its tokens to `NUM_OUTPUTS`) in place; returns the running share of objects
    read fully right, in [0, 1]."""
    import torch

    visual = forward.model.model.visual
    device = next(visual.parameters()).device
    parameters = [*visual.parameters(), *head.parameters()]
    matrices = [p for name, p in visual.named_parameters() if p.ndim == 2 and ("blocks." in name or "mlp" in name)]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [
        (
            torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
            config.learning_rate,
        ),
        (
            torch.optim.Muon(matrices, lr=config.muon_learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            config.muon_learning_rate,
        ),
    ]
    batches = MadeAhead(lambda n: _batch(np.random.default_rng([seed, 80, n]), source, config.batch_size), data_workers)
    batches.next()  # starting processes is no training time
    spent_s = reported_s = right = 0.0
    num_images = 0
    while spent_s < config.seconds and right < config.enough:
        start = time.perf_counter()
        images, targets = batches.next()
        positions = patch_positions(NUM_CELLS, images.shape[2] // CELL_PX)
        with autocast(device.type, use_bf16):
            patches = torch.from_numpy(patchify(images)).to(device)
            features = forward.image_features(patches, torch.from_numpy(positions).to(device))
            output = head(features).float()
        loss, hits = cell_loss(output, torch.from_numpy(targets).to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        factor = learning_rate_factor(spent_s / config.seconds, warmup=0.03, decay=0.4)
        for optimizer, rate in optimizers:
            set_learning_rate(optimizer, rate * factor)
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
    wide = np.stack([cells_side_by_side(targets[i : i + 2]) for i in range(0, size, 2)])
    return np.concatenate([images[::2], images[1::2]], axis=2), wide
