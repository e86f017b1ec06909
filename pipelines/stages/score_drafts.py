"""Have verifiers that had no say in a search score its images: who would have chosen better?"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.interfaces import score_prompts
from inference.verifier import VerifierConfig
from pipelines.stage import Item, Stage, Workers
from pipelines.stages.candidate_images import by_row, flat_images
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

    def load(self) -> None:
        config = self.config.verifier
        self.verifiers = {kind: config.open_one(kind, self.journal) for kind in config.kinds}

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        flat = flat_images(rows)
        prompts = [row.prompt for row in flat.rows]
        spent = [Cost()] * len(flat.images)
        columns: dict[str, list[float]] = {}
        for kind, verifier in self.verifiers.items():
            scores, costs = score_prompts(verifier, flat.images, prompts)
            columns[kind] = scores.tolist()
            spent = [before + more for before, more in zip(spent, costs, strict=True)]
        opinions = [
            tuple(Reward(kind, float(value)) for kind, value in zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        return [
            replace(row, candidates=tuple(map(_scored, row.candidates, found)), cost=sum(costs, Cost()))
            for row, found, costs in zip(rows, by_row(rows, opinions), by_row(rows, spent), strict=True)
        ]


def _scored(candidate: Candidate, opinions: tuple[Reward, ...]) -> Candidate:
    return replace(candidate, rewards=opinions)
