"""Recomputed layers: the same gradients from less memory, of any trainer of VLMs."""

from dataclasses import replace

import torch

from benchmarks.dual_process.gradient_memory import kept_for_gradient
from trainers.shard_dataset import PairDataset


def assert_recomputing_changes_no_gradient(open_training, config):
    """open_training: a trainer's; config: of it, with a field `recompute`."""
    gradients, kept = [], []
    for recompute in (False, True):
        training = open_training(replace(config, recompute=recompute))
        triplets = [PairDataset(training.order)[n] for n in range(2)]
        with kept_for_gradient((training.trainable.module,)) as bytes_kept:
            ((_, losses),) = training.trainable.losses(triplets)
        losses.sum().backward()
        gradients.append([p.grad for p in training.parameters])
        kept.append(bytes_kept.num_bytes)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert any(bool(g.any()) for g in gradients[1])
    assert kept[1] < 0.8 * kept[0]
