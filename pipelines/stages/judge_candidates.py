"""Judge every image of a row by GenEval's rules, with the judge that no search sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inference.judges.judge import JudgeConfig, judge_images, open_judge
from pipelines.stage import Workers
from schemas.configuration import execution_field
from schemas.images import decode_image
from schemas.records import Cost, PromptRow


@dataclass(frozen=True)
class JudgeCandidatesConfig:
    """Which judge."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    workers: Workers = execution_field(Workers())


class JudgeCandidates:
    """The last stage of a search: its verdicts are `Candidate.check`, and nothing reads them but evaluation."""

    name: ClassVar[str] = "judge_candidates"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = False

    def __init__(self, config: JudgeCandidatesConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config = config

    def load(self) -> None:
        self.judge = open_judge(self.config.judge)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        where = [(number, candidate) for number, row in enumerate(rows) for candidate in row.candidates]
        images = [decode_image(c.image or b"", f"{rows[n].prompt.prompt_id} candidate {c.index}") for n, c in where]
        prompts = [rows[number].prompt for number, _ in where]
        judged: list[list[Any]] = [[] for _ in rows]
        for (number, candidate), check in zip(where, judge_images(self.judge, images, prompts), strict=True):
            plain = tuple(replace(found, mask_png=None) for found in check.objects)
            judged[number].append(replace(candidate, check=replace(check, objects=plain)))
        return [
            replace(row, candidates=tuple(found), cost=Cost(detector_calls=len(found)))
            for row, found in zip(rows, judged, strict=True)
        ]
