"""CommonsenseT2I's rule (Fu et al. 2024): pairs of prompts that only imply what they show, each with its description.

"A lightbulb without electricity" and "a lightbulb with electricity": they differ in a word, and common sense says how
their images must differ. Each image is held against both descriptions. It supports the one that it fits; one that fits
both is given to one of them by a coin, and one that fits neither supports nothing. Image j of the first prompt and
image j of the second make one try, which counts when the first supports the first description and the second the
second. The figure is the share of tries, averaged over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.judges.intervals import Interval, intervals_by_tag, mean_over_tags
from schemas.configuration import stable_seed

Fits = tuple[bool | None, bool | None]
"""Whether an image fits the first description, and the second; None where the judge said neither yes nor no."""


@dataclass(frozen=True)
class CommonsensePair:
    """Two prompts and their descriptions. likelihood: how often what is described is so, as the data say it."""

    prompts: tuple[str, str]
    descriptions: tuple[str, str]
    category: str = "all"
    likelihood: str = ""


def supported(fits: Fits, *coin: Any) -> int:
    """1 or 2: the description that an image supports; 0: none. coin: decides where it fits both; the same values, the
    same side."""
    match fits:
        case (True, True):
            return 1 + stable_seed("fits both", *coin) % 2
        case (True, False):
            return 1
        case (False, True):
            return 2
        case _:
            return 0


def pair_accuracy(fits: np.ndarray) -> np.ndarray:
    """bool (pairs, 2, tries) -> float (pairs,): share of the tries of which both images fit."""
    return fits.all(axis=1).mean(axis=1)


def accuracy_by_category(pairs: Sequence[CommonsensePair], values: np.ndarray) -> dict[str, float]:
    """Means of one value a pair, by category; `avg` over all pairs, as the benchmark averages."""
    categories = [pair.category for pair in pairs]
    found = {
        name: float(np.mean([v for v, c in zip(values, categories, strict=True) if c == name]))
        for name in dict.fromkeys(categories)
    }
    return {**found, "avg": float(np.mean(values)) if len(values) else float("nan")}


def mean_over_pairs(pairs: Sequence[CommonsensePair], values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Mean over pairs with its 95 % interval, pairs resampled; of differences, a paired comparison."""
    return mean_over_tags(values, ["all"] * len(pairs), [pair.prompts for pair in pairs], seed)


def means_by(
    tags: Sequence[str], pairs: Sequence[CommonsensePair], values: Sequence[float] | np.ndarray
) -> dict[str, Interval]:
    """The same of the pairs of each tag (one a pair), in the order in which tags first occur."""
    return intervals_by_tag(values, tags, [pair.prompts for pair in pairs])
