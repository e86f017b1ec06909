"""Pair candidates by the reward ensemble: best with worst of one prompt, or a long prompt's with its short form's."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import tyro

from inference.likeness.likeness import LikenessConfig
from pipelines.stage import Workers
from pipelines.stages.makes_pairs import GoodAndBad, MakesPairs, Partner
from pipelines.stages.quality_floor import QualityConfig, good_enough, too_low
from pipelines.stages.score_rewards import ensemble_of
from schemas.configuration import added_field, execution_field, stable_seed
from schemas.errors import InputError
from schemas.records import Candidate, Cost, PromptRow, Reason, Rejection


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
    partner: Partner = added_field("random")
    """The bad image of a good one: by chance, or the one that is most alike (by `--likeness.kind`)."""
    likeness: Annotated[LikenessConfig | None, tyro.conf.Suppress] = added_field(None)
    """What the run measures likeness by (`--likeness`)."""
    quality: Annotated[QualityConfig | None, tyro.conf.Suppress] = added_field(None)
    """The run's floor (`--quality`)."""
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        for name in ("top_k", "bottom_k", "pairs_per_prompt"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is too few", field=f"reward.{name}", expected="at least 1")
        if self.min_margin < 0:
            raise InputError(f"{self.min_margin}", field="reward.min_margin", expected="0 or more")


class _Pairing(MakesPairs):
    """What both ways share: candidates are put side by side at random, or as they are alike, and kept where the margin
    holds."""

    version: ClassVar[int] = 1

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
        margin = self.config.min_margin
        by_chance = list(_matches(good, bad, margin))
        if not by_chance:
            best = max(map(ensemble_of, good)) - min(map(ensemble_of, bad))
            detail = f"at most {best:.2f} apart, {margin:.2f} are needed"
            return replace(row, rejection=Rejection(self.name, Reason.NO_MARGIN, detail), cost=Cost())
        possible = [(g.index, b.index) for g in good for b in bad if _fits(g, b, margin)]
        return replace(row, pairs=tuple(self.matched(row, by_chance, possible)), cost=Cost())


def _matches(good: Sequence[Candidate], bad: Sequence[Candidate], margin: float) -> Iterator[GoodAndBad]:
    """Each good one with the first bad one, not taken yet, that is `margin` worse."""
    free = list(bad)
    for better in good:
        for worse in free:
            if _fits(better, worse, margin):
                free.remove(worse)
                yield better.index, worse.index
                break


def _fits(better: Candidate, worse: Candidate, margin: float) -> bool:
    return better.index != worse.index and ensemble_of(better) - ensemble_of(worse) >= margin


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
