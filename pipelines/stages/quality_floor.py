"""An absolute floor for quality: what the good image of a pair must score, since two bad images teach nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.stages.score_rewards import ENSEMBLE, ScoreRewardsConfig
from schemas.errors import InputError
from schemas.records import Candidate, Reason, Rejection


@dataclass(frozen=True)
class QualityConfig:
    """What the good image of every pair must score. Holds for `rule` (whose candidates are scored for it), `general`
    and `length`; `editing` has images that somebody else made, which nothing scores."""

    min: float | None = None
    """The least score of a good image, on the reward's own scale; none: no floor."""
    reward: str = ""
    """The reward's name; empty: the first one."""

    def over(self, rewards: ScoreRewardsConfig) -> "QualityConfig | None":
        """The floor with its reward's name; None where there is none. rewards: those that are used. InputError."""
        if self.min is None:
            if self.reward:
                raise InputError(f"a floor on {self.reward!r} of no height", field="quality.min", expected="a number")
            return None
        names = [reward.name for reward in rewards.rewards]
        if not math.isfinite(self.min):
            raise InputError(f"{self.min}", field="quality.min", expected="a number")
        if self.reward and self.reward not in names:
            why = " (it compares images of one prompt, and has no scale of its own)" if self.reward == ENSEMBLE else ""
            raise InputError(f"no reward {self.reward!r}{why}", field="quality.reward", expected=" or ".join(names))
        return replace(self, reward=self.reward or names[0])


def good_enough(candidates: Sequence[Candidate], quality: QualityConfig | None) -> list[Candidate]:
    """Those at the floor or above it; all, where there is none. ValueError for one that was not scored."""
    if quality is None or quality.min is None:
        return list(candidates)
    return [candidate for candidate in candidates if _score(candidate, quality.reward) >= quality.min]


def too_low(candidates: Sequence[Candidate], quality: QualityConfig, stage: str) -> Rejection:
    """Of a prompt none of whose images that may be the good one is good enough."""
    best = max((_score(candidate, quality.reward) for candidate in candidates), default=-math.inf)
    detail = f"{quality.reward}: the best good image scores {best:.4g}, {quality.min:.4g} are needed"
    return Rejection(stage, Reason.LOW_QUALITY, detail)


def _score(candidate: Candidate, name: str) -> float:
    found = next((reward.value for reward in candidate.rewards if reward.scorer == name), None)
    if found is None:
        raise ValueError(f"candidate {candidate.index} has no reward {name!r}: score_rewards comes before")
    return found
