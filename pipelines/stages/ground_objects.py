"""Find the objects of each candidate and check them against what its prompt requires."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.grounding.grounded_sam import GroundedSamConfig
from pipelines.model_costs import grounding_costs
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import by_row, flat_images
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class GroundObjectsConfig:
    """What finds the objects."""

    grounded_sam: GroundedSamConfig = field(default_factory=GroundedSamConfig)
    workers: Workers = execution_field(Workers())


class GroundObjects(Stage):
    """The rule check of ReflectionFlow §3.2: GroundingDINO boxes, SAM masks, colours; correct or not, a score,
    reasons."""

    name: ClassVar[str] = "ground_objects"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    def load(self) -> None:
        self.grounded_sam = self.config.grounded_sam.open()

    @classmethod
    def costs(cls, config: GroundObjectsConfig, gpu: Gpu | None) -> StageCosts:
        return grounding_costs(config.grounded_sam, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        flat = flat_images(rows)
        checks = by_row(rows, self.grounded_sam.check(flat.images, [row.prompt for row in flat.rows]))
        return [
            replace(
                row,
                candidates=tuple(replace(c, check=check) for c, check in zip(row.candidates, found, strict=True)),
                cost=Cost(detector_calls=len(row.candidates)),
            )
            for row, found in zip(rows, checks, strict=True)
        ]
