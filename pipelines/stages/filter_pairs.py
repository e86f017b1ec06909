"""Keep the pairs whose good image the verifier finds better too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from inference.interfaces import Opinion, Verifier, verify_records
from inference.verifier import VerifierConfig
from pipelines.model_costs import vlm_costs
from pipelines.stage import Stage, StageCosts, Workers
from pipelines.stages.candidate_images import image_of
from pipelines.stages.write_reflections import without_pairs_rejected
from pipelines.stated_figures import FILTER_SECONDS, Gpu
from schemas.configuration import execution_field
from schemas.records import Cost, Pair, PromptRow, Reason, Rejection


@dataclass(frozen=True)
class FilterPairsConfig:
    """Who verifies, and by how much the good image must win."""

    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    min_margin: float = 0.0
    """Score of the good image above the bad one's: log-odds, but for a trained verifier that scores in standard
    deviations (`trained.scores`)."""
    workers: Workers = execution_field(Workers())


class FilterPairs(Stage):
    """Verifier post-processing (ReflectionFlow §3.2): pairs whose label the verifier denies are thrown out."""

    name: ClassVar[str] = "filter_pairs"
    version: ClassVar[int] = 3
    reads_images: ClassVar[bool] = True

    def load(self) -> None:
        self.verifier: Verifier = self.config.verifier.open(self.journal)

    @classmethod
    def is_client(cls, config: FilterPairsConfig) -> bool:
        return config.verifier.is_client

    @classmethod
    def costs(cls, config: FilterPairsConfig, gpu: Gpu | None) -> StageCosts:
        return vlm_costs(FILTER_SECONDS, 0.03, config.verifier.asked_vlm, gpu)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        images, prompts = [], []
        for row in rows:
            by_index = {candidate.index: candidate for candidate in row.candidates}
            for pair in row.shipped_pairs:
                images += [image_of(row, by_index[index]) for index in (pair.good, pair.bad)]
                prompts += [row.prompt] * 2
        opinions = iter(verify_records(self.verifier, images, prompts))
        return [self._filtered(row, opinions) for row in rows]

    def _filtered(self, row: PromptRow, opinions: Iterator[Opinion]) -> PromptRow:
        pairs: list[Pair] = []
        cost = Cost()
        for pair in row.pairs:
            if pair.rejection is None:
                good, bad = next(opinions), next(opinions)
                cost += good.cost + bad.cost
                pair = replace(pair, good_score=good.score, bad_score=bad.score)
                if not good.score - bad.score > self.config.min_margin:
                    detail = f"the good image scores {good.score:.3f}, the bad one {bad.score:.3f}"
                    if good.score > bad.score:
                        detail += f": no more than {self.config.min_margin:g} better"
                    pair = replace(pair, rejection=Rejection(self.name, Reason.VERIFIER_DISAGREES, detail))
            pairs.append(pair)
        return without_pairs_rejected(replace(row, pairs=tuple(pairs), cost=cost), self.name)
