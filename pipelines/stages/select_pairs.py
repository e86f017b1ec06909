"""Pair right candidates with wrong ones of the same prompt, and write the rule-based reflection."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from inference.grounding.rule_reflection import write_reflection
from pipelines.model_costs import cpu_costs
from pipelines.stage import Stage, StageCosts, Workers
from pipelines.stages.quality_floor import QualityConfig, good_enough, too_low
from pipelines.stated_figures import Gpu
from schemas.configuration import added_field, execution_field, stable_seed
from schemas.errors import InputError
from schemas.records import Candidate, Check, Cost, Pair, PromptRow, Reason, Reflection, Rejection


@dataclass(frozen=True)
class SelectPairsConfig:
    """Which prompts are kept, and how their candidates become good/bad pairs.

    Difficulty is the share of correct candidates. `bins`: hard at most `hard_max`, easy at least `easy_min`
    (ReflectionFlow §4.4: .3 and .8). `quantiles`: the run's own tertiles (§3.2), which needs the whole run checked
    before one pair is made.
    """

    difficulty: Literal["bins", "quantiles"] = "bins"
    """How thresholds are found: fixed, or the run's own tertiles."""
    hard_max: float = 0.3
    """Share of correct candidates up to which a prompt is hard (bins)."""
    easy_min: float = 0.8
    """Share from which on it is easy (bins)."""
    keep_bins: tuple[Literal["easy", "medium", "hard"], ...] = ("medium",)
    """Prompts of these are paired, the others rejected."""
    top_k: int = 3
    """Right candidates that may be the good image, best first."""
    bottom_k: int = 3
    """Wrong candidates that may be the bad one, worst first."""
    pairs_per_prompt: int = 2
    """At most."""
    quality: Annotated[QualityConfig | None, tyro.conf.Suppress] = added_field(None)
    """The run's floor (`--quality`)."""
    workers: Workers = execution_field(Workers())

    def __post_init__(self) -> None:
        for name in ("top_k", "bottom_k", "pairs_per_prompt"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is too few", field=f"select.{name}", expected="at least 1")
        if not 0 <= self.hard_max < self.easy_min <= 1:
            raise InputError(
                f"hard up to {self.hard_max}, easy from {self.easy_min}",
                field="select.hard_max, select.easy_min",
                expected="0 <= hard_max < easy_min <= 1",
            )


class DifficultyTertiles:
    """Barrier: the thresholds that cut the run's checked prompts into three equal parts by difficulty."""

    name: ClassVar[str] = "difficulty_tertiles"
    version: ClassVar[int] = 1

    def __call__(self, rows: Iterable[PromptRow]) -> dict[str, Any]:
        shares = sorted(share_correct(row.candidates) for row in rows if row.active)
        if not shares:
            return {"hard_max": 0.0, "easy_min": 1.0, "num_prompts": 0}
        third = len(shares) / 3
        hard_max, easy_min = shares[int(third)], shares[min(int(2 * third), len(shares) - 1)]
        return {"hard_max": hard_max, "easy_min": max(easy_min, hard_max), "num_prompts": len(shares)}


class SelectPairs(Stage):
    """Highest-scored correct candidates against lowest-scored wrong ones, matched at random (ReflectionFlow §3.2)."""

    name: ClassVar[str] = "select_pairs"
    version: ClassVar[int] = 1

    def __init__(self, config: SelectPairsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        self.hard_max = barrier["hard_max"] if barrier else config.hard_max
        self.easy_min = barrier["easy_min"] if barrier else config.easy_min

    @classmethod
    def costs(cls, config: SelectPairsConfig, gpu: Gpu | None) -> StageCosts:
        return cpu_costs(0.0002)

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        return [self._select(row) for row in rows]

    def _select(self, row: PromptRow) -> PromptRow:
        share = share_correct(row.candidates)
        row = replace(row, difficulty=share, difficulty_bin=self._bin(share), cost=Cost())
        rejection = self._rejection(row, share)
        if rejection is not None:
            return replace(row, rejection=rejection)
        rng = random.Random(stable_seed(self.seed, self.name, row.prompt.prompt_id))
        ranked = sorted(row.candidates, key=lambda c: (-_check(c).score, rng.random()))
        right = [c for c in ranked if _check(c).correct]
        good = good_enough(right, self.config.quality)[: self.config.top_k]
        if self.config.quality and not good:
            return replace(row, rejection=too_low(right, self.config.quality, self.name))
        bad = [c for c in reversed(ranked) if not _check(c).correct][: self.config.bottom_k]
        rng.shuffle(good)
        rng.shuffle(bad)
        matched = list(zip(good, bad, strict=False))[: self.config.pairs_per_prompt]
        pairs = tuple(
            Pair(
                index=index,
                good=g.index,
                bad=b.index,
                paired_by="check_score",
                reflection=Reflection(write_reflection(row.prompt, _check(g), _check(b)), annotator="rule"),
            )
            for index, (g, b) in enumerate(matched)
        )
        return replace(row, pairs=pairs)

    def _bin(self, share: float) -> str:
        if share <= self.hard_max:
            return "hard"
        return "easy" if share >= self.easy_min else "medium"

    def _rejection(self, row: PromptRow, share: float) -> Rejection | None:
        count = f"{sum(_check(c).correct for c in row.candidates)} of {len(row.candidates)} correct"
        if share == 1:
            return Rejection(self.name, Reason.ALL_CORRECT, count)
        if share == 0:
            return Rejection(self.name, Reason.ALL_WRONG, count)
        if row.difficulty_bin not in self.config.keep_bins:
            reason = {"easy": Reason.TOO_EASY, "hard": Reason.TOO_HARD}.get(row.difficulty_bin or "", Reason.NOT_KEPT)
            return Rejection(self.name, reason, count)
        return None


def share_correct(candidates: Sequence[Candidate]) -> float:
    """Share of candidates whose check says correct, in [0, 1]."""
    return sum(_check(c).correct for c in candidates) / len(candidates)


def _check(candidate: Candidate) -> Check:
    if candidate.check is None:
        raise ValueError(f"candidate {candidate.index} was not checked: ground_objects comes before select_pairs")
    return candidate.check
