"""What stages that make pairs share: they say how alike a pair's two images are, where the run measures it."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from inference.interfaces import Likeness
from pipelines.model_costs import likeness_costs
from pipelines.stage import Stage, StageCosts
from pipelines.stages.candidate_images import image_of
from pipelines.stated_figures import Gpu
from schemas.records import Pair, PromptRow

Partner = Literal["random", "nearest"]
GoodAndBad = tuple[int, int]
"""Candidate numbers of a good image and a bad one."""


class MakesPairs(Stage):
    """Its configuration has `likeness`, a `LikenessConfig` or None: then it looks at no image for it."""

    measure: Likeness | None = None

    def load(self) -> None:
        if self.config.likeness is not None:
            self.measure = self.config.likeness.open()

    @classmethod
    def needs_images(cls, config: Any) -> bool:
        return config.likeness is not None and not cls.makes_images  # those bring them

    @classmethod
    def costs(cls, config: Any, gpu: Gpu | None) -> StageCosts:
        return likeness_costs(config.likeness, gpu)

    def alike(self, row: PromptRow, wanted: Sequence[GoodAndBad]) -> dict[GoodAndBad, float]:
        """How alike the images of each of these are; empty where it is not measured. The row's candidates carry their
        images."""
        if self.measure is None or not wanted:
            return {}
        numbers = sorted({number for both in wanted for number in both})
        by_index = {candidate.index: candidate for candidate in row.candidates}
        matrix = self.measure.between([image_of(row, by_index[number]) for number in numbers])
        place = {number: i for i, number in enumerate(numbers)}
        return {(good, bad): round(float(matrix[place[good], place[bad]]), 6) for good, bad in wanted}

    def matched(
        self,
        row: PromptRow,
        by_chance: Sequence[GoodAndBad],
        possible: Sequence[GoodAndBad],
        rather_not: Container[GoodAndBad] = (),
    ) -> list[Pair]:
        """The pairs of a row, bare but for how alike their images are: those that chance brought together, or the
        nearest of all that are possible. rather_not: `nearest`'s."""
        config = self.config
        if config.partner == "nearest":
            if self.measure is None:
                raise ValueError("the nearest partner is asked for, and nothing that measures likeness")
            alike = self.alike(row, possible)
            chosen = nearest(alike, rather_not)[: config.pairs_per_prompt]
        else:
            chosen = list(by_chance)[: config.pairs_per_prompt]
            alike = self.alike(row, chosen)
        return [self._with_likeness(Pair(i, *both, self.name), alike) for i, both in enumerate(chosen)]

    def likened(self, row: PromptRow, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """The same pairs, with how alike their images are, where that is measured."""
        alike = self.alike(row, [(pair.good, pair.bad) for pair in pairs])
        return tuple(self._with_likeness(pair, alike) for pair in pairs)

    def _with_likeness(self, pair: Pair, alike: Mapping[GoodAndBad, float]) -> Pair:
        if not alike:
            return pair
        return replace(pair, likeness=alike[pair.good, pair.bad], likeness_by=self.config.likeness.kind)


def nearest(alike: Mapping[GoodAndBad, float], rather_not: Container[GoodAndBad] = ()) -> list[GoodAndBad]:
    """The two images that are most alike, then the two most alike of those that are left, and so on: each image once.
    rather_not: these come after all others."""
    ranked = sorted(alike, key=lambda both: (both in rather_not, -alike[both], both))
    taken: set[int] = set()
    found = []
    for both in ranked:
        if taken.isdisjoint(both):
            found.append(both)
            taken.update(both)
    return found
