"""Whether a run's rejections are all alike: then something is wrong with a model, its settings or the data, and whoever
started the run should hear of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.plain_text import one_line
from schemas.records import PromptRow, Reason

FAULTS = frozenset(
    {
        *(Reason.MALFORMED_ANSWER, Reason.EMPTY_ANSWER, Reason.REFUSED_ANSWER, Reason.ONLY_REASONING),
        *(Reason.OVERLONG_ANSWER, Reason.NO_CAPTION, Reason.EMPTY_REFLECTION, Reason.REFUSED_REFLECTION),
        *(Reason.BROKEN_IMAGE, Reason.BAD_INPUT_ROW),
    }
)
"""Reasons that say that a model does not do what it is asked, or that data does not read; others weigh quality."""
_ALIKE = 0.95  # of the prompts that a stage saw
_WORTH_A_WORD = 0.8
_FEW = 8  # of fewer prompts, quality may well turn all down


@dataclass(frozen=True)
class Alike:
    """The prompts of a subset that a stage rejected for one reason. share: of those that came to it."""

    subset: str
    stage: str
    reason: str
    count: int
    seen: int
    example: str

    @property
    def share(self) -> float:
        return self.count / self.seen

    def in_words(self) -> str:
        """For the end of a run."""
        return (
            f"{self.count} of {self.seen} {self.subset} prompts that came to {self.stage} were rejected there: "
            f"{self.reason}, such as {one_line(self.example)}"
        )


@dataclass
class Rejections:
    """Counts over a run's last rows."""

    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejected: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str, str], str] = field(default_factory=dict)
    num_prompts: int = 0
    num_left: int = 0

    def add(self, subset: str, stages: Sequence[str], row: PromptRow) -> None:
        """Count a prompt's last row. stages: those of its chain, in order."""
        self.num_prompts += 1
        self.num_left += row.rejection is None
        rejected_by = row.rejection.stage if row.rejection else None
        for stage in ("intake", *stages):
            self.seen[subset, stage] += 1
            if stage == rejected_by:
                break
        if row.rejection is not None:
            reason, detail = _told(row)
            key = subset, row.rejection.stage, reason
            self.rejected[key] += 1
            self.examples.setdefault(key, f"{row.prompt.prompt_id}: {detail[:300]}")

    def alike(self) -> list[Alike]:
        """What is worth a word: four fifths of what a stage saw, or more, were rejected for one reason. The most alike
        first."""
        found = [
            Alike(*key, count, max(count, self.seen[key[:2]]), self.examples[key])
            for key, count in self.rejected.items()
        ]
        return sorted((one for one in found if one.share >= _WORTH_A_WORD), key=lambda one: (-one.share, -one.count))

    def faults(self) -> list[Alike]:
        """What points to a fault: nearly all that a stage saw was rejected for one of `FAULTS`; or nothing is left of a
        run of some size, and it was one reason, whichever."""
        nothing_left = self.num_left == 0 and self.num_prompts >= _FEW
        return [
            one
            for one in self.alike()
            if one.share >= _ALIKE
            and (one.reason in FAULTS or (nothing_left and one.count >= _ALIKE * self.num_prompts))
        ]


def _told(row: PromptRow) -> tuple[str, str]:
    """Reason and detail; of a prompt that lost all its pairs for one reason, that one."""
    assert row.rejection is not None
    of_pairs = [pair.rejection for pair in row.pairs if pair.rejection is not None]
    if row.rejection.reason == Reason.NO_PAIR_LEFT and len({one.reason for one in of_pairs}) == 1:
        return of_pairs[0].reason, of_pairs[0].detail
    return row.rejection.reason, row.rejection.detail
