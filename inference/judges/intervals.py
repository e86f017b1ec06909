"""Shares over prompts with their uncertainty, by tag as GenEval weighs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
MAX_DRAWN = 1_000_000


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval; low and high are NaN where there is none, as of one prompt."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.shown()

    def shown(self, form: str = ".3f") -> str:
        """The value, and the interval where there is one. form: of each number."""
        if math.isnan(self.low):
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"

    def as_list(self, digits: int | None = None) -> list[float | None]:
        """For JSON: value, low, high, rounded where `digits` are said; None for NaN."""
        found = (self.value, self.low, self.high)
        return [None if math.isnan(one) else one if digits is None else round(one, digits) for one in found]

    @classmethod
    def from_list(cls, found: Sequence[float | None]) -> Interval:
        """What `as_list` made."""
        value, low, high = (math.nan if one is None else one for one in found)
        return cls(value, low, high)


def mean_over_tags(
    values: Sequence[float] | np.ndarray, tags: Sequence[str], clusters: Sequence[object], seed: int = 0
) -> Interval:
    """The mean of the tags' means (GenEval's overall score), resampled by clusters within each tag.

    values: one for each prompt: 0 or 1 for a score, -1, 0, 1 for a paired difference. clusters: prompts with the same
    name are drawn together (the same text under several seeds is one piece of evidence about texts). Where no tag has
    two of them, nothing says how far other prompts would lie apart: there is no interval.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng, totals, point, most = np.random.default_rng([seed, 97]), [], [], 0
    array = np.asarray(values, float)
    for tag in dict.fromkeys(tags):
        of_tag = np.array([t == tag for t in tags])
        names = [c for c, mine in zip(clusters, of_tag, strict=True) if mine]
        index = {name: i for i, name in enumerate(dict.fromkeys(names))}
        member = np.array([index[name] for name in names])
        sums = np.bincount(member, array[of_tag], len(index))
        sizes = np.bincount(member, minlength=len(index))
        most = max(most, len(index))
        point.append(sums.sum() / sizes.sum())
        totals.append(np.concatenate([_resampled(rng, sums, sizes, n) for n in _parts(len(index))]))
    low, high = np.percentile(np.mean(totals, axis=0), [2.5, 97.5]) if most > 1 else (math.nan, math.nan)
    return Interval(float(np.mean(point)), float(low), float(high))


def _resampled(rng: np.random.Generator, sums: np.ndarray, sizes: np.ndarray, number: int) -> np.ndarray:
    """(number,): means over as many clusters as there are, drawn with replacement."""
    picks = rng.integers(len(sums), size=(number, len(sums)))
    return sums[picks].sum(1) / sizes[picks].sum(1)


def _parts(num_clusters: int) -> list[int]:
    """`NUM_RESAMPLES` in parts that draw about a million clusters each, so that memory does not grow with both."""
    each = max(1, MAX_DRAWN // num_clusters)
    return [min(each, NUM_RESAMPLES - start) for start in range(0, NUM_RESAMPLES, each)]


def intervals_by_tag(
    values: Sequence[float] | np.ndarray, tags: Sequence[str], clusters: Sequence[object], seed: int = 0
) -> dict[str, Interval]:
    """The mean of each tag alone, resampled as in `mean_over_tags`."""
    found = {}
    for tag in dict.fromkeys(tags):
        mine = [i for i, its_tag in enumerate(tags) if its_tag == tag]
        found[tag] = mean_over_tags([values[i] for i in mine], [tag] * len(mine), [clusters[i] for i in mine], seed)
    return found
