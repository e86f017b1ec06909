"""Everything a page shows, read from a run folder in two passes: count every unit, then fetch what was sampled.

Units stream by one at a time; what stays in memory are counts and the sampled cards. Nothing here fails for a run that
is unfinished, or for a block that does not read: it is left out and said so.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import sample_key
from pipelines.report.cards import PairCard, PromptCard, pair_card, prompt_card, stratum_of
from pipelines.report.figures import Figures, StageFigures, Timings, read_timings
from pipelines.report.sampling import Drawn, StratifiedSample
from pipelines.run_folder import RunFolder
from pipelines.stage import Step
from schemas.errors import CorruptDataError
from schemas.records import PromptRow

_MAX_NOTES = 12


@dataclass(frozen=True)
class ReportLimits:
    """How much of a run goes on the page."""

    max_pairs: int = 2000
    max_rejected: int = 200
    max_quarantined: int = 100
    max_bytes: int = 50_000_000
    image_px: int = 256
    strip_px: int = 128
    """Longest side of the candidates of rejected prompts."""


@dataclass(frozen=True)
class PairAt:
    """Where a pair lies: unit, row in the unit, the pair's index."""

    unit: int
    row: int
    pair: int


@dataclass(frozen=True)
class PromptAt:
    """Where a prompt lies."""

    unit: int
    row: int


@dataclass
class Notes:
    """What could not be shown, a sentence each, for the top of the page."""

    lines: list[str] = field(default_factory=list)
    num_more: int = 0

    def add(self, line: str) -> None:
        """Say something once; after a dozen they are only counted."""
        if line in self.lines:
            return
        if len(self.lines) < _MAX_NOTES:
            self.lines.append(line)
        else:
            self.num_more += 1


@dataclass(frozen=True)
class ReportData:
    """A run as its page sees it. pairs and prompts: in the order in which they would be given up to save bytes, last
    first."""

    figures: Figures
    pairs: list[PairCard]
    prompts: list[PromptCard]
    notes: Notes


class _Samples:
    """The three samples that are drawn while a run is counted."""

    def __init__(self, limits: ReportLimits, seed: int) -> None:
        self.pairs: StratifiedSample[PairAt] = StratifiedSample(limits.max_pairs, seed)
        self.rejected: StratifiedSample[PromptAt] = StratifiedSample(limits.max_rejected, seed)
        self.quarantined: StratifiedSample[PromptAt] = StratifiedSample(limits.max_quarantined, seed)

    def add(self, unit: int, index: int, row: PromptRow) -> None:
        """Offer all there is to show of a prompt."""
        stratum = stratum_of(row)
        if row.quarantine is not None:
            self.quarantined.add(stratum, row.prompt.prompt_id, PromptAt(unit, index))
        elif row.rejection is not None:
            reason = (*stratum, row.rejection.reason)
            self.rejected.add(reason, row.prompt.prompt_id, PromptAt(unit, index))
        for pair in row.shipped_pairs:
            self.pairs.add(stratum, sample_key(unit, index, pair.index), PairAt(unit, index, pair.index))


def gather(folder: RunFolder, config: JobConfig, limits: ReportLimits) -> ReportData:
    """Count a run and fetch a sample of it."""
    chains = resolve_chains(folder, config)
    notes, figures = Notes(), Figures()
    samples = _Samples(limits, folder.info.seed)
    timings = read_timings(folder)
    for path in timings.unreadable:
        notes.add(f"{path} does not read: its seconds are left out")
    for subset, steps in chains.items():
        _expect(figures, subset, steps, len(folder.units(subset)), timings)
        committed = {step.name: folder.committed_units(step.name, step.key) for step in steps if step.settled}
        for unit in folder.units(subset):
            present = [step for step in steps if unit in committed.get(step.name, ())]
            rows = _count_unit(folder, steps, present, unit, timings, figures, notes)
            for index, row in enumerate(rows):
                samples.add(unit, index, row)
    return _fetch(folder, chains, samples, limits, figures, notes)


def _expect(figures: Figures, subset: str, steps: list[Step], num_units: int, timings: Timings) -> None:
    for step in steps:
        stage = figures.stages.setdefault(step.name, StageFigures(step.name))
        stage.subsets.append(subset)
        stage.num_units += num_units
        if step.key not in stage.keys:  # subsets may share a stage, key and all
            stage.seconds += timings.spent.get((step.name, step.key), 0.0)
        stage.keys.add(step.key)


def _count_unit(
    folder: RunFolder,
    steps: list[Step],
    present: list[Step],
    unit: int,
    timings: Timings,
    figures: Figures,
    notes: Notes,
) -> list[PromptRow]:
    """Add a unit to the figures. Its final rows, [] while it is pending."""
    final: list[PromptRow] = []
    for step in present:
        try:
            if step is steps[-1]:
                footer, final = folder.read_block(step.name, step.key, unit)
            else:
                footer = folder.read_footer(step.name, step.key, unit)
        except (FileNotFoundError, CorruptDataError):
            notes.add(
                f"unit {unit}: its block of {step.name} does not read and is left out; "
                "`resume --check-blocks` makes it again"
            )
            continue
        figures.add_block(step, footer, timings.seconds.get((step.name, step.key, unit)))
    for row in final:
        figures.add_row(row)
    if not final:
        for row in folder.prompts(unit):
            figures.add_pending(row)
    return final


def _fetch(
    folder: RunFolder,
    chains: dict[str, list[Step]],
    samples: _Samples,
    limits: ReportLimits,
    figures: Figures,
    notes: Notes,
) -> ReportData:
    pairs, prompts = samples.pairs.drawn(), samples.quarantined.drawn() + samples.rejected.drawn()
    pair_cards: dict[str, PairCard] = {}
    prompt_cards: dict[str, PromptCard] = {}
    pairs_of, prompts_of = defaultdict(list), defaultdict(list)
    for pair in pairs:
        pairs_of[pair.item.unit].append(pair)
    for prompt in prompts:
        prompts_of[prompt.item.unit].append(prompt)
    for unit in sorted({*pairs_of, *prompts_of}):
        rows = _rows_with_images(folder, chains[folder.segment_of(unit).subset], unit, notes)
        if rows is None:
            continue
        for drawn in pairs_of[unit]:
            card = _pair_card(rows, drawn, limits, notes)
            if card is not None:
                pair_cards[drawn.key] = card
        for drawn in prompts_of[unit]:
            at = drawn.item
            prompt_cards[drawn.key] = prompt_card(folder, rows[at.row], unit, at.row, limits.strip_px)
    return ReportData(
        figures=figures,
        pairs=[pair_cards[drawn.key] for drawn in pairs if drawn.key in pair_cards],
        prompts=[prompt_cards[drawn.key] for drawn in prompts if drawn.key in prompt_cards],
        notes=notes,
    )


def _pair_card(rows: list[PromptRow], drawn: Drawn[PairAt], limits: ReportLimits, notes: Notes) -> PairCard | None:
    at, row = drawn.item, rows[drawn.item.row]
    try:
        pair = next(pair for pair in row.pairs if pair.index == at.pair)
        card = pair_card(row, pair, drawn.key, at.unit, limits.image_px)
    except (StopIteration, KeyError):
        notes.add(f"unit {at.unit}: pair {drawn.key} names candidates that are not there; `verify` says more")
        return None
    if card.good.uri is None or card.bad.uri is None:
        notes.add(f"unit {at.unit}: an image of pair {drawn.key} is missing or does not decode")
    return card


def _rows_with_images(folder: RunFolder, steps: list[Step], unit: int, notes: Notes) -> list[PromptRow] | None:
    last = steps[-1]
    try:
        _, rows = folder.read_block(last.name, last.key, unit)
    except (FileNotFoundError, CorruptDataError):
        return None
    for step in steps:
        if not step.link.stage.makes_images:
            continue
        try:
            rows = folder.with_images(rows, step.name, step.key, unit)
        except (FileNotFoundError, CorruptDataError, ValueError):
            notes.add(f"unit {unit}: the images of {step.name} do not read")
    return rows
