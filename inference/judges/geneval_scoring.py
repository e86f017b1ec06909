"""GenEval's scoring over a judge's objects: thresholds by tag, the verdict, and the overall score.

The rules themselves (counts, colours, positions, reasons) are `inference.grounding.check`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.grounding.check import check_objects
from schemas.records import Check, DetectedObject, PromptRecord, Tag


@dataclass(frozen=True)
class ScoreThresholds:
    """Objects count whose score is strictly above. GenEval's Mask2Former has .3, and .9 for the counting tag."""

    default: float = 0.3
    """Of all tags but counting."""
    counting: float = 0.9
    """Of prompts that count."""

    def of(self, tag: str | None) -> float:
        return self.counting if tag == Tag.COUNTING else self.default


def judge_objects(prompt: PromptRecord, objects: Sequence[DetectedObject], thresholds: ScoreThresholds) -> Check:
    """The verdict on everything a judge's detector found in one image."""
    threshold = thresholds.of(prompt.tag)
    return check_objects(prompt, [found for found in objects if found.score > threshold])


def score_by_tag(tags: Sequence[str], correct: Sequence[bool]) -> dict[str, float]:
    """Share of right images of each tag, and `overall`: the mean of the tags' shares (GenEval)."""
    shares: dict[str, float] = {}
    for tag in dict.fromkeys(tags):
        verdicts = [ok for ok, its_tag in zip(correct, tags, strict=True) if its_tag == tag]
        shares[tag] = sum(verdicts) / len(verdicts)
    overall = sum(shares.values()) / len(shares) if shares else 0.0
    return {**shares, "overall": overall}
