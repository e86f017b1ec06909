"""Keep the pairs whose good image the verifier finds better too."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from inference.interfaces import Verifier
from inference.vlm.endpoint import Journal
from inference.vlm.verifier import VerifierConfig
from pipelines.stage import Workers
from pipelines.stages.write_reflections import without_pairs_rejected
from schemas.configuration import execution_field
from schemas.images import decode_image
from schemas.records import Cost, Pair, PromptRow, Reason, Rejection


@dataclass(frozen=True)
class FilterPairsConfig:
    """Who verifies, and by how much the good image must win."""

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    min_margin: float = 0.0
    """Score of the good image above the bad one's (log-odds)."""
    workers: Workers = execution_field(Workers())


class FilterPairs:
    """Verifier post-processing (ReflectionFlow §3.2): pairs whose label the verifier denies are thrown out."""

    name: ClassVar[str] = "filter_pairs"
    version: ClassVar[int] = 1
    reads_images: ClassVar[bool] = True
    makes_images: ClassVar[bool] = False

    def __init__(self, config: FilterPairsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        self.config = config
        self.journal: Journal | None = None

    def keep_journal(self, journal: Journal) -> None:
        """Where answers of endpoints are kept; called once, before `load`."""
        self.journal = journal

    def load(self) -> None:
        from inference.vlm.verifier import open_verifier

        self.verifier: Verifier = open_verifier(self.config.verifier, self.journal)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        images, prompts = [], []
        for row in rows:
            by_index = {candidate.index: candidate for candidate in row.candidates}
            for pair in row.shipped_pairs:
                for index in (pair.good, pair.bad):
                    where = f"{row.prompt.prompt_id} candidate {index}"
                    images.append(decode_image(by_index[index].image or b"", where))
                    prompts.append(row.prompt.text)
        scores = iter(self.verifier.score(images, prompts).tolist())
        return [self._filtered(row, scores) for row in rows]

    def _filtered(self, row: PromptRow, scores: Iterator[float]) -> PromptRow:
        pairs: list[Pair] = []
        for pair in row.pairs:
            if pair.rejection is None:
                good, bad = next(scores), next(scores)
                pair = replace(pair, good_score=good, bad_score=bad)
                if good - bad <= self.config.min_margin:
                    detail = f"the good image scores {good:.3f}, the bad one {bad:.3f}"
                    pair = replace(pair, rejection=Rejection(self.name, Reason.VERIFIER_DISAGREES, detail))
            pairs.append(pair)
        cost = Cost(verifier_calls=2 * len(row.shipped_pairs))
        return without_pairs_rejected(replace(row, pairs=tuple(pairs), cost=cost), self.name)
