"""Judge every image of a row, with the judge that no search sees: by GenEval's rules, or by questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import tyro

from inference.judges.judge import JudgeConfig, judge_images
from inference.judges.known_words import KnownWords
from inference.judges.questions_judge import QuestionsJudge, num_questions
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

    judge: Annotated[JudgeConfig, tyro.conf.arg(name="")] = field(default_factory=JudgeConfig)
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

    @classmethod
    def is_client(cls, config: JudgeCandidatesConfig) -> bool:
        asked = config.judge.questions if config.judge.kind == "questions" else None
        return asked is not None and asked.vlm.is_elsewhere

    def load(self) -> None:
        self.judge = self.config.judge.open(self.journal)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        judged = [self._can_judge(row) for row in rows]
        flat = flat_images([row for row, can in zip(rows, judged, strict=True) if can])
        found = iter(judge_images(self.judge, flat.images, [row.prompt for row in flat.rows]))
        return [
            self._with_verdicts(row, [next(found) for _ in row.candidates]) if can else replace(row, cost=Cost())
            for row, can in zip(rows, judged, strict=True)
        ]

    def _can_judge(self, row: PromptRow) -> bool:
        if isinstance(self.judge, QuestionsJudge):
            return True
        return why_not_judged(row.prompt, KnownWords(self.judge.known_classes, self.judge.known_colors)) is None

    def _with_verdicts(self, row: PromptRow, checks: Sequence[Check]) -> PromptRow:
        candidates = tuple(map(_judged, row.candidates, checks))
        asked = isinstance(self.judge, QuestionsJudge)
        each = Cost(vlm_calls=num_questions([row.prompt])) if asked else Cost(detector_calls=1)
        return replace(row, candidates=candidates, cost=sum([each] * len(candidates), Cost()))


def _judged(candidate: Candidate, check: Check) -> Candidate:
    """Masks are left out: they would be most of a block."""
    return replace(candidate, check=replace(check, objects=tuple(replace(o, mask_png=None) for o in check.objects)))
