"""What comes of a distillation: its curve, and images before and after with what the VLM thinks of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference.dual.concept import Concept


@dataclass(frozen=True)
class Point:
    """One training step: mean loss of the wanted answers that counted, and mean probability of all: one that was not
    asked for yet has none, 0. `at`: where the gradient starts; `best`: of all its answers the most probable (1 where an
    earlier version did not write it down); `asked`: how many questions were asked of any image (0 where it did not)."""

    step: int
    loss: float
    probability: float
    at: int
    best: float = 1.0
    asked: int = 0


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A generator on the evaluation seeds: images uint8 (n, H, W, 3), probabilities (n, questions)."""

    images: np.ndarray
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        return float(self.probabilities.mean())

    @property
    def hardest(self) -> int:
        """Index of the question whose wanted answer is the least probable."""
        return int(self.probabilities.mean(0).argmin())


@dataclass(frozen=True)
class Look:
    """What teacher and referee think of finished images after `step` steps: for each question the mean probability of
    the wanted answer."""

    step: int
    teacher: tuple[float, ...]
    referee: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Fooled:
    """A training that ended because the referee denies what the teacher believes. why: for people. step: where it
    ended. kept_step: of the LoRA that is kept, the last at which the two had not parted. question: number of the one
    over which they parted. images: what the teacher was sure of, None until it is drawn."""

    why: str
    step: int
    kept_step: int
    question: int
    images: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of a concept. why_not: what keeps it from being learnt, for people; empty where it is. seconds: of
    training, all attempts together. looks: the referee's, none without one. fooled: None where the two have not
    parted; after is then of the LoRA that is kept. before and after are of the concept's prompt; also: both, of each
    that is taught with it."""

    concept: Concept
    key: str
    curve: tuple[Point, ...]
    before: Evaluated
    after: Evaluated
    why_not: str
    seconds: float
    looks: tuple[Look, ...] = ()
    fooled: Fooled | None = None
    also: tuple[tuple[Evaluated, Evaluated], ...] = ()

    @property
    def converged(self) -> bool:
        """Whether it is learnt."""
        return not self.why_not
