"""Pair right candidates with wrong ones of the same prompt, and write the rule-based reflection."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import tyro

from inference.grounding.differences import unexplained_differences
from inference.grounding.rule_reflection import write_reflection
from inference.likeness.likeness import LikenessConfig
from pipelines.stage import Workers
from pipelines.stages.makes_pairs import GoodAndBad, MakesPairs, Partner
from pipelines.stages.quality_floor import QualityConfig, good_enough, too_low
from pipelines.stages.write_reflections import without_pairs_rejected
from schemas.configuration import added_field, execution_field, stable_seed
from schemas.errors import InputError
from schemas.image_size import ImageSize
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
    partner: Partner = added_field("random")
    """The bad image of a good one: by chance, as in the paper, or the one that is most alike (by `--likeness.kind`)."""
    explained_only: bool = added_field(False)
    """Reject pairs whose images differ in more than the rule's reflection says, by their two checks."""
    max_shift: float = added_field(0.2)
    """Explained only: how far an object that nothing is said of may lie from where it was, as a share of the image."""
    likeness: Annotated[LikenessConfig | None, tyro.conf.Suppress] = added_field(None)
    """What the run measures likeness by (`--likeness`)."""
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
        if not 0 <= self.max_shift <= 1:
            raise InputError(f"{self.max_shift}", field="select.max_shift", expected="a share of the image, 0 to 1")


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


class SelectPairs(MakesPairs):
    """Highest-scored correct candidates against lowest-scored wrong ones, matched at random (ReflectionFlow §3.2) or as
    they are alike."""

    name: ClassVar[str] = "select_pairs"
    version: ClassVar[int] = 1

    def __init__(self, config: SelectPairsConfig, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, seed)
        self.hard_max = barrier["hard_max"] if barrier else config.hard_max
        self.easy_min = barrier["easy_min"] if barrier else config.easy_min

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
        by_chance = [(g.index, b.index) for g, b in zip(good, bad, strict=False)]
        possible = [(g.index, b.index) for g in good for b in bad]
        found = {both: self._unexplained(row, both) for both in possible} if self.config.explained_only else {}
        unexplained = {both: differences for both, differences in found.items() if differences}
        matched = self.matched(row, by_chance, possible, rather_not=unexplained)
        pairs = tuple(self._told(row, pair, unexplained.get((pair.good, pair.bad), [])) for pair in matched)
        return without_pairs_rejected(replace(row, pairs=pairs), self.name)

    def _unexplained(self, row: PromptRow, both: GoodAndBad) -> list[str]:
        good, bad = (next(c for c in row.candidates if c.index == number) for number in both)
        sizes = (ImageSize(good.width_px, good.height_px), ImageSize(bad.width_px, bad.height_px))
        return unexplained_differences(_check(good), _check(bad), sizes, self.config.max_shift)

    def _told(self, row: PromptRow, pair: Pair, unexplained: Sequence[str]) -> Pair:
        """The pair with its reflection. unexplained: what differs beside; then it is rejected."""
        check = {candidate.index: _check(candidate) for candidate in row.candidates}
        said = write_reflection(row.prompt, check[pair.good], check[pair.bad])
        pair = replace(pair, paired_by="check_score", reflection=Reflection(said, annotator="rule"))
        if not unexplained:
            return pair
        detail = f"{said} But {'; '.join(unexplained)}"
        return replace(pair, rejection=Rejection(self.name, Reason.UNEXPLAINED_DIFFERENCE, detail))

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
