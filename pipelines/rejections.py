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
ANSWERS = frozenset(
    {
        *(Reason.MALFORMED_ANSWER, Reason.EMPTY_ANSWER, Reason.REFUSED_ANSWER, Reason.ONLY_REASONING),
        *(Reason.OVERLONG_ANSWER, Reason.EMPTY_REFLECTION, Reason.REFUSED_REFLECTION),
    }
)
"""Reasons that speak of what a VLM answered."""
_ALIKE = 0.95  # of the prompts that a stage saw
_WORTH_A_WORD = 0.8
_SHOWN_CHARS = 300
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
    answers: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    put_aside: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
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
        for rejection in (row.rejection, *(pair.rejection for pair in row.pairs)):
            if rejection is not None and rejection.reason in ANSWERS:
                _count(self.answers, (rejection.stage, str(rejection.reason)), rejection.detail)
        if row.quarantine is not None:
            error = row.quarantine.error
            _count(self.put_aside, (row.quarantine.stage, error.partition(":")[0]), f"{row.prompt.prompt_id}: {error}")

    def told(self) -> list[str]:
        """What a model answered that could not be used, and what rows failed of, with an example each; the most
        frequent first, a line each."""
        answers = [
            (count, f"{stage}: {count} of a model's answers could not be used ({reason}), such as {_shown(text)!r}")
            for (stage, reason), (count, text) in self.answers.items()
        ]
        failed = [
            (count, f"{stage}: {count} prompts failed ({kind}), such as {_shown(text)}")
            for (stage, kind), (count, text) in self.put_aside.items()
        ]
        return [line for _, line in sorted([*answers, *failed], key=lambda one: -one[0])]

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


def _count(table: dict[tuple[str, str], tuple[int, str]], key: tuple[str, str], example: str) -> None:
    count, first = table.get(key, (0, example))
    table[key] = count + 1, first


def _shown(text: str) -> str:
    return one_line(" ".join(text.split())[:_SHOWN_CHARS])


def _told(row: PromptRow) -> tuple[str, str]:
    """Reason and detail; of a prompt that lost all its pairs for one reason, that one."""
    assert row.rejection is not None
    of_pairs = [pair.rejection for pair in row.pairs if pair.rejection is not None]
    if row.rejection.reason == Reason.NO_PAIR_LEFT and len({one.reason for one in of_pairs}) == 1:
        return of_pairs[0].reason, of_pairs[0].detail
    return row.rejection.reason, row.rejection.detail
