"""Decide which prompts of a search get another round."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from inference.allocation import AllocationConfig, RoundPlan, images_for, plan_round
from inference.interfaces import rank_of
from pipelines.model_costs import cpu_costs
from pipelines.stage import Stage, StageCosts, Workers
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class AllocateRoundConfig:
    """How much there is to spend, and how many images a round of one prompt takes."""

    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    width: int = 2
    workers: Workers = execution_field(Workers(cpus=0.1))


class RoundBudget:
    """Barrier before each round but the first: who is unsure, and how far the rest of the budget reaches."""

    name: ClassVar[str] = "round_budget"
    version: ClassVar[int] = 1

    def __init__(self, config: AllocateRoundConfig) -> None:
        self.config = config

    def __call__(self, rows: Iterable[PromptRow]) -> dict[str, Any]:
        best, spent = [], 0
        for row in rows:
            if row.active:
                best.append(best_of(row))
                spent += len(row.candidates)
        return asdict(plan_round(best, spent, self.config.width, self.config.allocation)) | {"spent": spent}


class AllocateRound(Stage):
    """Sets `PromptRow.allotted` by the barrier's plan and the prompt's own best score."""

    name: ClassVar[str] = "allocate_round"
    version: ClassVar[int] = 1

    def __init__(self, config: AllocateRoundConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        said = barrier or {}
        self.plan = RoundPlan(bool(said.get("goes_on")), said.get("from_score"))

    @classmethod
    def costs(cls, config: AllocateRoundConfig, gpu: Gpu | None) -> StageCosts:
        return cpu_costs(0.0002)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        width, allocation = self.config.width, self.config.allocation
        return [
            replace(row, allotted=images_for(best_of(row), width, self.plan, allocation), cost=Cost()) for row in rows
        ]


def best_of(row: PromptRow) -> float:
    """The verifier's highest score so far."""
    return max((rank_of(c.search.score) for c in row.candidates if c.search), default=float("-inf"))
