"""Have verifiers that had no say in a search score its images: who would have chosen better?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inference.search_tools import SearchVerifierConfig, open_search_verifier
from inference.vlm.endpoint import Journal
from pipelines.stage import Workers
from schemas.configuration import execution_field
from schemas.images import decode_image
from schemas.records import Cost, PromptRow, Reward


@dataclass(frozen=True)
class ScoreDraftsConfig:
    """Each of `verifier.kinds` gives a score of its own."""

    verifier: SearchVerifierConfig = field(default_factory=SearchVerifierConfig)
    workers: Workers = execution_field(Workers())


class ScoreDrafts:
    """Second opinions: `Candidate.rewards`, one a verifier, of every image of every round."""

    name: ClassVar[str] = "score_drafts"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = False

    def __init__(self, config: ScoreDraftsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.journal: Journal | None = None

    def keep_journal(self, journal: Journal) -> None:
        """Where answers of endpoints are kept; called once, before `load`."""
        self.journal = journal

    def load(self) -> None:
        config = self.config.verifier
        self.verifiers = {
            kind: open_search_verifier(replace(config, kinds=(kind,)), self.journal) for kind in config.kinds
        }

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        images = [
            decode_image(c.image or b"", f"{row.prompt.prompt_id} candidate {c.index}")
            for row in rows
            for c in row.candidates
        ]
        prompts = [row.prompt.text for row in rows for _ in row.candidates]
        scores = {kind: iter(v.score(images, prompts)) for kind, v in self.verifiers.items()}
        return [
            replace(
                row,
                candidates=tuple(
                    replace(c, rewards=tuple(Reward(kind, float(next(values))) for kind, values in scores.items()))
                    for c in row.candidates
                ),
                cost=Cost(verifier_calls=len(scores) * len(row.candidates)),
            )
            for row in rows
        ]
