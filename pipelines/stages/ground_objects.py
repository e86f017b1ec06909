"""Find the objects of each candidate and check them against what its prompt requires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inference.grounding.grounded_sam import GroundedSam, GroundedSamConfig
from inference.grounding.presets import micro_grounded_sam
from pipelines.stage import Workers
from schemas.configuration import execution_field
from schemas.images import decode_image
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class GroundObjectsConfig:
    """What finds the objects."""

    grounded_sam: GroundedSamConfig = field(default_factory=micro_grounded_sam)
    workers: Workers = execution_field(Workers())


class GroundObjects:
    """The rule check of ReflectionFlow §3.2: GroundingDINO boxes, SAM masks, colours; correct or not, a score,
    reasons."""

    name: ClassVar[str] = "ground_objects"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = False

    def __init__(self, config: GroundObjectsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config = config

    def load(self) -> None:
        self.grounded_sam = GroundedSam.from_config(self.config.grounded_sam)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        images, prompts = [], []
        for row in rows:
            for candidate in row.candidates:
                where = f"{row.prompt.prompt_id} candidate {candidate.index}"
                images.append(decode_image(candidate.image or b"", where))
                prompts.append(row.prompt)
        checks = iter(self.grounded_sam.check(images, prompts))
        done: list[PromptRow] = []
        for row in rows:
            candidates = tuple(replace(candidate, check=next(checks)) for candidate in row.candidates)
            done.append(replace(row, candidates=candidates, cost=Cost(detector_calls=len(candidates))))
        return done
