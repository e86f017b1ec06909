"""Score each candidate with every reward, and with all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from inference.rewards.clip_reward import ClipReward
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from inference.rewards.presets import RewardsConfig
from pipelines.stage import Workers
from schemas.configuration import execution_field
from schemas.errors import InputError
from schemas.images import decode_image
from schemas.records import Candidate, Cost, PromptRow, Reward

ENSEMBLE = "ensemble"  # the name of the combination among a candidate's rewards


@dataclass(frozen=True)
class ScoreRewardsConfig:
    """Which rewards, and how they are combined."""

    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        num_scorers = len(self.rewards.chosen())
        if not num_scorers:
            raise InputError("no reward has a model", field="rewards", expected="at least one of clip, hps, pick")
        if self.ensemble.weights and len(self.ensemble.weights) != num_scorers:
            raise InputError(
                f"{len(self.ensemble.weights)} weights for {num_scorers} rewards",
                field="rewards.ensemble.weights",
                expected="one a reward, in the order clip, hps, pick",
            )


class ScoreRewards:
    """The ensemble of ReflectionFlow §3.2, asked with the user's prompt whatever a candidate was drawn from."""

    name: ClassVar[str] = "score_rewards"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = False

    def __init__(self, config: ScoreRewardsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config = config

    def load(self) -> None:
        self.scorers = {name: ClipReward(config) for name, config in self.config.rewards.chosen().items()}

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        images = [
            decode_image(c.image or b"", f"{row.prompt.prompt_id} candidate {c.index}")
            for row in rows
            for c in row.candidates
        ]
        prompts = [row.prompt.text for row in rows for _ in row.candidates]
        scores = {name: scorer.score(images, prompts) for name, scorer in self.scorers.items()}
        done: list[PromptRow] = []
        start = 0
        for row in rows:
            stop = start + len(row.candidates)
            done.append(self._scored(row, {name: values[start:stop] for name, values in scores.items()}))
            start = stop
        return done

    def _scored(self, row: PromptRow, scores: dict[str, np.ndarray]) -> PromptRow:
        columns = {**scores, ENSEMBLE: combine_rewards(scores, self.config.ensemble)}
        candidates = tuple(
            replace(candidate, rewards=tuple(Reward(name, float(values[i])) for name, values in columns.items()))
            for i, candidate in enumerate(row.candidates)
        )
        return replace(row, candidates=candidates, cost=Cost(reward_calls=len(scores) * len(candidates)))


def ensemble_of(candidate: Candidate) -> float:
    """The candidate's combined reward. ValueError where it was not scored."""
    for reward in candidate.rewards:
        if reward.scorer == ENSEMBLE:
            return reward.value
    raise ValueError(f"candidate {candidate.index} was not scored: score_rewards comes before")
