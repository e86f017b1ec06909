"""How far one set of images lies from another: CMMD (Jayasumana et al. 2024, "Rethinking FID")."""

from __future__ import annotations

import numpy as np

SIGMA = 10.0
SCALE = 1000.0
"""Kernel width and factor, both as published."""


def cmmd(before: np.ndarray, after: np.ndarray) -> float:
    """1000 times the squared maximum mean discrepancy of two sets of CLIP embeddings, float unit vectors (n, d) and
    (m, d), under a Gaussian kernel of width 10. The published estimator, which keeps each point's pair with itself: 0
    for equal sets, above 0 for two samples of one distribution too, by about 1/n + 1/m of the kernel's spread."""
    x, y = before.astype(np.float64), after.astype(np.float64)
    return float(SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)))


def chance_level(before: np.ndarray, after: np.ndarray, num_splits: int = 200, seed: int = 0) -> float:
    """What 95 % of random splits of all images into sets of these sizes stay below: a larger `cmmd` is no accident."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([before, after]).astype(np.float64)
    kernel = _kernel(x, x)
    found = []
    for _ in range(num_splits):
        first = np.zeros(len(x), bool)
        first[rng.permutation(len(x))[: len(before)]] = True
        means = [kernel[np.ix_(a, b)].mean() for a, b in ((first, first), (~first, ~first), (first, ~first))]
        found.append(SCALE * (means[0] + means[1] - 2 * means[2]))
    return float(np.quantile(found, 0.95))


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float(_kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distance = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.exp(-np.maximum(distance, 0) / (2 * SIGMA**2))
