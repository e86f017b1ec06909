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
    return _discrepancy(_kernel(before, after), np.arange(len(before) + len(after)) < len(before))


def chance_level(before: np.ndarray, after: np.ndarray, num_splits: int = 200, seed: int = 0) -> float:
    """What 95 % of random splits of all images into sets of these sizes stay below: a larger `cmmd` is no accident."""
    rng, kernel = np.random.default_rng(seed), _kernel(before, after)
    is_first = np.arange(len(kernel)) < len(before)
    return float(np.quantile([_discrepancy(kernel, rng.permutation(is_first)) for _ in range(num_splits)], 0.95))


def _discrepancy(kernel: np.ndarray, is_first: np.ndarray) -> float:
    """Between the points of a kernel matrix that are of the first set and the others."""
    first, second = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    within = kernel[np.ix_(first, first)].mean() + kernel[np.ix_(second, second)].mean()
    return float(SCALE * (within - 2 * kernel[np.ix_(first, second)].mean()))


def _kernel(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Of all points with all, those of `before` first."""
    points = np.concatenate([before, after]).astype(np.float64)
    squares = (points**2).sum(1)
    distance = squares[:, None] + squares[None] - 2 * points @ points.T
    return np.exp(-np.maximum(distance, 0) / (2 * SIGMA**2))
