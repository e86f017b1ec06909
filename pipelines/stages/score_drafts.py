"""Have verifiers that had no say in a search score its images: who would have chosen better?"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.interfaces import verify_records
from inference.verifier import VerifierConfig
from pipelines.model_costs import cpu_costs, verifier_gib, verifier_seconds
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import by_row, flat_images
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field
from schemas.records import Candidate, Cost, PromptRow, Reward


@dataclass(frozen=True)
class ScoreDraftsConfig:
    """Each of `verifier.kinds` gives a score of its own."""

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    workers: Workers = execution_field(Workers())


class ScoreDrafts(Stage):
    """Second opinions: `Candidate.rewards`, one a verifier, of every image of every round."""

    name: ClassVar[str] = "score_drafts"
    version: ClassVar[int] = 3
    reads_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    @classmethod
    def costs(cls, config: ScoreDraftsConfig, gpu: Gpu | None) -> StageCosts:
        seconds = sum(verifier_seconds(kind, config.verifier)[0] for kind in config.verifier.kinds)
        if gpu is None:
            return cpu_costs(seconds)
        source = "stated: an assumption; measure it with a pilot run"
        return StageCosts(seconds, source, verifier_gib(config.verifier), "stated: what its verifiers load")

    def load(self) -> None:
        config = self.config.verifier
        self.verifiers = {kind: config.open_one(kind, self.journal) for kind in config.kinds}

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        flat = flat_images(rows)
        prompts = [row.prompt for row in flat.rows]
        spent = [Cost()] * len(flat.images)
        columns: dict[str, list[float]] = {}
        for kind, verifier in self.verifiers.items():
            opinions = verify_records(verifier, flat.images, prompts)
            columns[kind] = [one.score for one in opinions]
            spent = [before + one.cost for before, one in zip(spent, opinions, strict=True)]
        rewards = [
            tuple(Reward(kind, float(value)) for kind, value in zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        return [
            replace(row, candidates=tuple(map(_scored, row.candidates, found)), cost=sum(costs, Cost()))
            for row, found, costs in zip(rows, by_row(rows, rewards), by_row(rows, spent), strict=True)
        ]


def _scored(candidate: Candidate, rewards: tuple[Reward, ...]) -> Candidate:
    return replace(candidate, rewards=rewards)
