"""Judge every image of a row by GenEval's rules, with the judge that no search sees."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.judges.judge import JudgeConfig, judge_images
from inference.judges.known_words import KnownWords
from pipelines.model_costs import judge_costs
from pipelines.prompts.judgeable import why_not_judged
from pipelines.stage import Item, Stage, StageCosts, Workers
from pipelines.stages.candidate_images import flat_images
from pipelines.stated_figures import Gpu
from schemas.configuration import execution_field
from schemas.records import Candidate, Check, Cost, PromptRow


@dataclass(frozen=True)
class JudgeCandidatesConfig:
    """Which judge."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    workers: Workers = execution_field(Workers())


class JudgeCandidates(Stage):
    """The last stage of a search: its verdicts are `Candidate.check`, and nothing reads them but evaluation. Images of
    a prompt that the judge cannot judge get none."""

    name: ClassVar[str] = "judge_candidates"
    version: ClassVar[int] = 2
    reads_images: ClassVar[bool] = True
    item: ClassVar[Item] = "images"

    @classmethod
    def costs(cls, config: JudgeCandidatesConfig, gpu: Gpu | None) -> StageCosts:
        return judge_costs(config.judge, gpu)

    def load(self) -> None:
        self.judge = self.config.judge.open()

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        known = KnownWords(self.judge.known_classes, self.judge.known_colors)
        judged = [why_not_judged(row.prompt, known) is None for row in rows]
        flat = flat_images([row for row, can in zip(rows, judged, strict=True) if can])
        found = iter(judge_images(self.judge, flat.images, [row.prompt for row in flat.rows]))
        return [
            _with_verdicts(row, [next(found) for _ in row.candidates]) if can else replace(row, cost=Cost())
            for row, can in zip(rows, judged, strict=True)
        ]


def _with_verdicts(row: PromptRow, checks: Sequence[Check]) -> PromptRow:
    candidates = tuple(map(_judged, row.candidates, checks))
    return replace(row, candidates=candidates, cost=Cost(detector_calls=len(candidates)))


def _judged(candidate: Candidate, check: Check) -> Candidate:
    """Masks are left out: they would be most of a block."""
    return replace(candidate, check=replace(check, objects=tuple(replace(o, mask_png=None) for o in check.objects)))
