"""The numbers of a page: what became of everything, by tag, by difficulty, and what each stage cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pipelines.conservation import Tally, row_outcome
from pipelines.run_folder import RunFolder
from pipelines.stage import Step
from schemas.blocks import BlockFooter
from schemas.records import Cost, Outcome, PromptRow

_MAX_BARS = 20


@dataclass
class StageFigures:
    """One stage. timed_*: of those units alone whose seconds are in stats/, so that a rate divides like by like."""

    name: str
    subsets: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    num_done: int = 0
    num_units: int = 0
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0
    timed_seconds: float = 0.0
    timed_cost: Cost = field(default_factory=Cost)
    timed_rows: int = 0

    @property
    def rate(self) -> tuple[float, str] | None:
        """Items a second, by what the stage mostly does; None without statistics."""
        if not self.timed_seconds:
            return None
        cost = self.timed_cost
        if cost.generations or cost.detector_calls:
            return (cost.generations or cost.detector_calls) / self.timed_seconds, "images/s"
        return self.timed_rows / self.timed_seconds, "prompts/s"


@dataclass
class Figures:
    """Counted while a run's units stream by."""

    counts: Tally = field(default_factory=Tally)
    by_tag: dict[str, Counter[str]] = field(default_factory=dict)
    difficulty: Counter[tuple[float, str]] = field(default_factory=Counter)
    bins: dict[float, str] = field(default_factory=dict)
    stages: dict[str, StageFigures] = field(default_factory=dict)
    num_candidates: int = 0

    def add_row(self, row: PromptRow) -> None:
        """A prompt whose last stage is done."""
        self.counts.add(row)
        tag = self.by_tag.setdefault(row.prompt.tag or "no tag", Counter())
        tag[row_outcome(row)] += 1
        tag["pairs"] += len(row.shipped_pairs)
        checked = [c.check.correct for c in row.candidates if c.check is not None]
        tag["checked"] += len(checked)
        tag["correct"] += sum(checked)
        self.num_candidates = max(self.num_candidates, len(row.candidates))
        if row.difficulty is not None:
            share = round(row.difficulty, 6)
            self.difficulty[share, row_outcome(row)] += 1
            self.bins.setdefault(share, row.difficulty_bin or "")

    def add_pending(self, row: PromptRow) -> None:
        """A prompt that is not done yet."""
        self.counts.prompts[Outcome.PENDING] += 1
        self.by_tag.setdefault(row.prompt.tag or "no tag", Counter())[Outcome.PENDING] += 1

    def add_block(self, step: Step, footer: BlockFooter, seconds: float | None) -> None:
        """A committed block. seconds: it took, where statistics say so."""
        stage = self.stages[step.name]
        stage.num_done += 1
        stage.cost += footer.cost
        if seconds is not None:
            stage.timed_seconds += seconds
            stage.timed_cost += footer.cost
            stage.timed_rows += footer.num_rows

    def cost_columns(self) -> list[str]:
        """The kinds of cost that any stage had, generations always among them."""
        spent = [stage.cost for stage in self.stages.values()]
        return [f.name for f in fields(Cost) if f.name == "generations" or any(getattr(cost, f.name) for cost in spent)]

    def histogram(self) -> list["Bar"]:
        """Prompts by share of right candidates, a bar a step of 1/candidates (at most 20 bars), zeros included."""
        steps = min(max(self.num_candidates, 1), _MAX_BARS)
        bars = [Bar(i / steps) for i in range(steps + 1)]
        for (share, outcome), count in self.difficulty.items():
            bar = bars[min(max(round(share * steps), 0), steps)]
            bar.by_outcome[outcome] += count
            bar.bin = self.bins.get(share, "")
        return bars


@dataclass
class Bar:
    """One bar of the histogram. bin: easy, medium or hard."""

    share: float
    by_outcome: Counter[str] = field(default_factory=Counter)
    bin: str = ""

    @property
    def total(self) -> int:
        """Prompts of all outcomes."""
        return sum(self.by_outcome.values())


@dataclass(frozen=True)
class Band:
    """Neighbouring bars of one difficulty bin, first and last included."""

    bin: str
    first: int
    last: int


def bands(bars: Sequence[Bar]) -> list[Band]:
    """Which bars are hard, medium and easy, as the run's own rows say; empty bars belong to no band of their own."""
    found: list[Band] = []
    for index, bar in enumerate(bars):
        if bar.bin and found and found[-1].bin == bar.bin:
            found[-1] = Band(bar.bin, found[-1].first, index)
        elif bar.bin:
            found.append(Band(bar.bin, index, index))
    return found


@dataclass(frozen=True)
class Timings:
    """stats/ as far as it reads. seconds: of the last attempt, by (stage, key, unit). spent: of all attempts, by
    (stage, key). unreadable: files that do not read."""

    seconds: dict[tuple[str, str, int], float]
    spent: dict[tuple[str, str], float]
    unreadable: tuple[str, ...]


def read_timings(folder: RunFolder) -> Timings:
    """Statistics are a nicety: a file that is broken is named and left out."""
    latest: dict[tuple[str, str, int], tuple[float, float]] = {}
    spent: Counter[tuple[str, str]] = Counter()
    unreadable: list[str] = []
    for path, entries in folder.statistics():
        if entries is None:
            unreadable.append(path)
            continue
        for block, started_at, seconds in map(_timing, entries):
            spent[block[:2]] += seconds  # type: ignore[assignment]
            latest[block] = max(latest.get(block, (0.0, 0.0)), (started_at, seconds))
    return Timings({block: seconds for block, (_, seconds) in latest.items()}, dict(spent), tuple(unreadable))


def _timing(entry: dict[str, Any]) -> tuple[tuple[str, str, int], float, float]:
    block = (str(entry["stage"]), str(entry["key"]), int(entry["unit"]))
    return block, float(entry["started_at"]), float(entry["seconds"])
