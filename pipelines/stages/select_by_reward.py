"""Pair candidates by the reward ensemble: best with worst of one prompt, or a long prompt's with its short form's."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import tyro

from pipelines.model_costs import cpu_costs
from pipelines.stage import Stage, StageCosts, Workers
from pipelines.stages.quality_floor import QualityConfig, good_enough, too_low
from pipelines.stages.score_rewards import ensemble_of
from pipelines.stated_figures import Gpu
from schemas.configuration import added_field, execution_field, stable_seed
from schemas.errors import InputError
from schemas.records import Candidate, Cost, Pair, PromptRow, Reason, Rejection


@dataclass(frozen=True)
class SelectByRewardConfig:
    """How scored candidates become pairs. The margin is on the ensemble's scale (z-scores of one prompt's images)."""

    top_k: int = 3
    """Candidates that may be the good image, best first."""
    bottom_k: int = 3
    """Candidates that may be the bad one, worst first."""
    pairs_per_prompt: int = 2
    """At most."""
    min_margin: float = 0.5
    """A good image is at least this much better than the bad one."""
    quality: Annotated[QualityConfig | None, tyro.conf.Suppress] = added_field(None)
    """The run's floor (`--quality`)."""
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        for name in ("top_k", "bottom_k", "pairs_per_prompt"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is too few", field=f"reward.{name}", expected="at least 1")
        if self.min_margin < 0:
            raise InputError(f"{self.min_margin}", field="reward.min_margin", expected="0 or more")


class _Pairing(Stage):
    """What both ways share: candidates are put side by side at random, and kept where the margin holds."""

    version: ClassVar[int] = 1

    @classmethod
    def costs(cls, config: SelectByRewardConfig, gpu: Gpu | None) -> StageCosts:
        return cpu_costs(0.0002)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return [self._select(row) for row in rows]

    def _select(self, row: PromptRow) -> PromptRow:
        rng = random.Random(stable_seed(self.seed, self.name, row.prompt.prompt_id))
        better, bad = SIDES[self.name](row, self.config)
        good = good_enough(better, self.config.quality)
        if self.config.quality and not good:
            return replace(row, rejection=too_low(better, self.config.quality, self.name), cost=Cost())
        rng.shuffle(good)
        rng.shuffle(bad)
        matched = list(_matches(good, bad, self.config.min_margin))[: self.config.pairs_per_prompt]
        if not matched:
            best = max(map(ensemble_of, good)) - min(map(ensemble_of, bad))
            detail = f"at most {best:.2f} apart, {self.config.min_margin:.2f} are needed"
            return replace(row, rejection=Rejection(self.name, Reason.NO_MARGIN, detail), cost=Cost())
        pairs = tuple(Pair(i, g.index, b.index, paired_by=self.name) for i, (g, b) in enumerate(matched))
        return replace(row, pairs=pairs, cost=Cost())


def _matches(
    good: Sequence[Candidate], bad: Sequence[Candidate], margin: float
) -> Iterator[tuple[Candidate, Candidate]]:
    """Each good one with the first bad one, not taken yet, that is `margin` worse."""
    free = list(bad)
    for better in good:
        for worse in free:
            if better.index != worse.index and ensemble_of(better) - ensemble_of(worse) >= margin:
                free.remove(worse)
                yield better, worse
                break


def best_and_worst(row: PromptRow, config: SelectByRewardConfig) -> tuple[list[Candidate], list[Candidate]]:
    """The top k and the bottom k; no image is good and bad at once."""
    ranked = sorted(row.candidates, key=lambda c: (-ensemble_of(c), c.index))
    half = len(ranked) // 2
    return ranked[: min(config.top_k, half)], ranked[len(ranked) - min(config.bottom_k, half) :]


def long_and_short(row: PromptRow, config: SelectByRewardConfig) -> tuple[list[Candidate], list[Candidate]]:
    """Images of the long prompt, and of its condensed form."""
    del config
    long = [c for c in row.candidates if c.text == row.prompt.text]
    return long, [c for c in row.candidates if c.text != row.prompt.text]


SIDES: dict[str, Callable[[PromptRow, SelectByRewardConfig], tuple[list[Candidate], list[Candidate]]]] = {
    "select_by_reward": best_and_worst,
    "select_by_length": long_and_short,
}
"""How a stage finds candidates that may be the good image, and those that may be the bad one."""


class SelectByReward(_Pairing):
    """Random pairs between the top k and the bottom k (ReflectionFlow §3.2, reward-based data)."""

    name: ClassVar[str] = "select_by_reward"


class SelectByLength(_Pairing):
    """The long prompt's images against its condensed form's (ReflectionFlow §3.2, long-short prompt data)."""

    name: ClassVar[str] = "select_by_length"
