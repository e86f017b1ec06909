"""Several rewards to one: each is standardised over the candidates of a prompt, then they are averaged.

Scores of different models, and of one model for different prompts, are on different scales; a dataset only compares
images of one prompt. z-scores keep how far apart two images are (a margin between them can be asked for); ranks keep
the order alone, which a single wild value cannot upset. The default is z: the rewards here are bounded (scaled
cosines), so nothing is wild, and the margins are worth keeping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from schemas.errors import InputError
from schemas.records import Reward

FLAT = 1e-6  # a scorer whose values differ by less has no opinion


@dataclass(frozen=True)
class EnsembleConfig:
    """How rewards are combined."""

    method: Literal["z", "rank"] = "z"
    """z: mean of z-scores. rank: mean of ranks, scaled to [-1, 1], ties shared."""


def combine_rewards(
    scores: Mapping[str, np.ndarray], config: EnsembleConfig = EnsembleConfig(), weights: Sequence[float] = ()
) -> np.ndarray:
    """scores: for each scorer, the values (n,) of the n candidates of one prompt. float64 (n,), mean 0. weights: one a
    scorer, in the order of the scores; equal where empty.

    A scorer that gives all candidates the same value adds 0. InputError for values that are not finite or numbers
    that do not fit together.
    """
    if not scores:
        raise InputError("no rewards to combine", expected="values of at least one scorer")
    if weights and (len(weights) != len(scores) or min(weights) < 0 or sum(weights) == 0):
        raise InputError(
            f"weights {weights} for {len(scores)} scorers", field="weights", expected="one a scorer, not all 0"
        )
    columns = []
    for name, values in scores.items():
        column = np.asarray(values, np.float64)
        if column.ndim != 1 or not np.isfinite(column).all():
            raise InputError(f"scores of {name!r} are {values!r}", expected="one finite number for each candidate")
        columns.append(standardise(column, config.method))
    if len({len(column) for column in columns}) > 1:
        lengths = {name: len(column) for name, column in zip(scores, columns, strict=True)}
        raise InputError(f"different numbers of scores: {lengths}", expected="one for each candidate from each scorer")
    shares = np.array(list(weights) or [1.0] * len(columns))
    return shares @ np.array(columns) / shares.sum()


def relative_scores(parts: Sequence[Sequence[Reward]]) -> list[float]:
    """One score an image of one prompt, from what each reward says of it: the mean of the rewards' z-scores among these
    images. parts: of each image, the same rewards in the same order."""
    columns = {said[0].scorer: np.array([one.value for one in said]) for said in zip(*parts, strict=True)}
    return combine_rewards(columns).tolist()


def standardise(values: np.ndarray, method: Literal["z", "rank"]) -> np.ndarray:
    """float64 (n,) with mean 0: z-scores (population standard deviation) or ranks in [-1, 1]."""
    if len(values) == 0 or np.ptp(values) < FLAT:
        return np.zeros(len(values))
    if method == "z":
        return (values - values.mean()) / values.std()
    below = (values[None] < values[:, None]).sum(1)
    above = (values[None] > values[:, None]).sum(1)
    return (below - above) / (len(values) - 1)
