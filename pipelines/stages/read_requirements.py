"""Read what free prompts ask for, before anything is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.requirements.reader import RequirementsConfig, read_requirements
from pipelines.model_costs import vlm_costs
from pipelines.stage import StageCosts, Workers
from pipelines.stages.asks_vlm import AsksVlm
from pipelines.stated_figures import READ_SECONDS, Gpu
from schemas.configuration import execution_field
from schemas.errors import InputError
from schemas.records import PromptRow


@dataclass(frozen=True)
class ReadRequirementsConfig:
    """Who reads."""

    requirements: RequirementsConfig = field(default_factory=lambda: RequirementsConfig("vlm"))
    workers: Workers = execution_field(Workers())


class ReadRequirements(AsksVlm):
    """Prompts of which nothing but their words is known get what a VLM reads in them; all others pass as they are."""

    name: ClassVar[str] = "read_requirements"
    version: ClassVar[int] = 1

    @classmethod
    def costs(cls, config: ReadRequirementsConfig, gpu: Gpu | None) -> StageCosts:
        return vlm_costs(READ_SECONDS, 0.5, config.requirements.vlm, gpu)

    def load(self) -> None:
        reader = self.config.requirements.open(self.journal)
        if reader is None:
            raise InputError("nobody reads the prompts", field="requirements.kind", expected="vlm")
        self.reader = reader

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        read = read_requirements(self.reader, [row.prompt for row in rows])
        return [replace(row, prompt=record, cost=cost) for row, (record, cost) in zip(rows, read, strict=True)]
