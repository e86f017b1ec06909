"""Score each candidate with every reward, and with all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.interfaces import check_scores
from inference.rewards.ensemble import EnsembleConfig, combine_rewards
from inference.rewards.reward import RewardConfig, used_rewards
from inference.rewards.vqa_score import VqaScoreConfig
from inference.vlm.vlm import VlmConfig
from pipelines.model_costs import reward_costs
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import flat_images
from pipelines.stated_figures import Gpu
from schemas.configuration import chosen_kind, execution_field
from schemas.errors import InputError
from schemas.records import Candidate, Cost, PromptRow, Reward

ENSEMBLE = "ensemble"  # the name of the combination among a candidate's rewards


@dataclass(frozen=True)
class ScoreRewardsConfig:
    """Which rewards, and how they are combined."""

    rewards: tuple[RewardConfig, ...] = (RewardConfig(),)
    """The scorers of the ensemble; those of weight 0 are left out."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    workers: Workers = execution_field(Workers())

    def only_what_is_used(self, vlm: VlmConfig | None = None) -> "ScoreRewardsConfig":
        """Without scorers of no weight. vlm: who is asked, where a reward names no VLM. InputError where none is left,
        or two have one name."""
        used = used_rewards(self.rewards, vlm)
        if ENSEMBLE in [reward.name for reward in used]:
            raise InputError(f"a reward called {ENSEMBLE!r}", field="rewards.name", expected="another name")
        return replace(self, rewards=used)


class ScoreRewards(Stage):
    """The ensemble of ReflectionFlow §3.2, asked with the user's prompt whatever a candidate was drawn from."""

    name: ClassVar[str] = "score_rewards"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    @classmethod
    def is_client(cls, config: ScoreRewardsConfig) -> bool:
        asked = [chosen_kind(reward) for reward in config.rewards]
        return all(isinstance(one, VqaScoreConfig) and one.vlm and one.vlm.is_elsewhere for one in asked)

    def load(self) -> None:
        self.scorers = {reward.name: reward.open(self.journal) for reward in self.config.rewards}

    @classmethod
    def costs(cls, config: ScoreRewardsConfig, gpu: Gpu | None) -> StageCosts:
        return reward_costs(config.rewards, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        flat = flat_images(rows)
        scores = {name: scorer.score(flat.images, flat.texts) for name, scorer in self.scorers.items()}
        for name, values in scores.items():
            check_scores(values, flat.texts, name)
        weights = [reward.weight for reward in self.config.rewards]
        done: list[PromptRow] = []
        start = 0
        for row in rows:
            part = slice(start, start + len(row.candidates))
            start = part.stop
            columns = {name: values[part] for name, values in scores.items()}
            columns[ENSEMBLE] = combine_rewards(columns, self.config.ensemble, weights)
            candidates = tuple(
                replace(candidate, rewards=tuple(Reward(name, float(values[i])) for name, values in columns.items()))
                for i, candidate in enumerate(row.candidates)
            )
            done.append(replace(row, candidates=candidates, cost=Cost(reward_calls=len(scores) * len(candidates))))
        return done


def ensemble_of(candidate: Candidate) -> float:
    """The candidate's combined reward. ValueError where it was not scored, UnscoredError where that is no number."""
    for reward in candidate.rewards:
        if reward.scorer == ENSEMBLE:
            check_scores([reward.value], [candidate.text], ENSEMBLE)
            return reward.value
    raise ValueError(f"candidate {candidate.index} was not scored: score_rewards comes before")
