"""Nothing lost, nothing made up: what became of every prompt, candidate and pair, counted from blocks and shards."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.edit_contents import GONE, changed_files
from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import index_of, sample_key, shard_inputs, shard_ranges
from pipelines.quarantine import quarantined_rows
from pipelines.rejections import Rejections
from pipelines.run_folder import RunFolder
from pipelines.run_names import quarantine_path
from pipelines.stage import Step
from schemas.arrow import hash_rows
from schemas.checked_json import parse_object
from schemas.errors import CorruptDataError
from schemas.images import decode_image, sha256
from schemas.records import Cost, Outcome, PromptRow
from schemas.shards import ShardSidecar, encode_shard, is_shard, read_members, shard_name, sidecar_name


@dataclass
class Tally:
    """Counts by outcome. Prompts: pending, shipped, rejected, quarantined. Candidates: paired, unused, rejected,
    quarantined. Pairs: shipped, rejected. reasons, pair_reasons: of rejected prompts and pairs. cost: by stage; spent:
    the same by subset, stage and key, as a search has a stage more than once."""

    prompts: Counter[str] = field(default_factory=Counter)
    candidates: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    pair_reasons: Counter[str] = field(default_factory=Counter)
    cost: dict[str, Cost] = field(default_factory=dict)
    spent: dict[tuple[str, str, str], Cost] = field(default_factory=dict)
    rejections: Rejections = field(default_factory=Rejections)

    def add(self, row: PromptRow) -> None:
        """Count one prompt's last row."""
        outcome = row_outcome(row)
        self.prompts[outcome] += 1
        if row.rejection is not None:
            self.reasons[row.rejection.reason] += 1
        paired = {i for pair in row.shipped_pairs for i in (pair.good, pair.bad)}
        for candidate in row.candidates:
            if outcome in (Outcome.REJECTED, Outcome.QUARANTINED):
                self.candidates[outcome] += 1
            else:
                self.candidates["paired" if candidate.index in paired else "unused"] += 1
        shipped = len(row.shipped_pairs)
        self.pairs["shipped"] += shipped
        self.pairs["rejected"] += len(row.pairs) - shipped
        self.pair_reasons.update(pair.rejection.reason for pair in row.pairs if pair.rejection is not None)

    def as_json(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return {
            "prompts": {outcome.value: self.prompts[outcome] for outcome in Outcome},
            "candidates": {k: self.candidates[k] for k in ("paired", "unused", "rejected", "quarantined")},
            "pairs": {"shipped": self.pairs["shipped"], "rejected": self.pairs["rejected"]},
            "rejected_by_reason": dict(sorted(self.reasons.items())),
            "rejected_pairs_by_reason": dict(sorted(self.pair_reasons.items())),
            "cost_by_stage": {stage: {k: v for k, v in asdict(cost).items() if v} for stage, cost in self.cost.items()},
        }


def row_outcome(row: PromptRow) -> Outcome:
    """What became of a prompt whose last stage is done."""
    if row.quarantine is not None:
        return Outcome.QUARANTINED
    if row.rejection is not None:
        return Outcome.REJECTED
    return Outcome.SHIPPED


def tally(folder: RunFolder, config: JobConfig) -> Tally:
    """Count from committed blocks. Prompts whose last block is missing or does not read are pending."""
    counts = Tally()
    chains = resolve_chains(folder, config)
    for subset, steps in chains.items():
        for unit in folder.units(subset):
            rows = _last_rows(folder, steps, unit)
            if rows is None:
                counts.prompts[Outcome.PENDING] += len(folder.prompts(unit))
            for row in rows or ():
                counts.add(row)
                counts.rejections.add(subset, [step.name for step in steps], row)
    subset_of = {unit: subset for subset in chains for unit in folder.units(subset)}
    for step in _distinct(chains):
        counts.cost.setdefault(step.name, Cost())
        for unit, cost in _unit_costs(folder, step):
            counts.cost[step.name] += cost
            if unit in subset_of:
                place = (subset_of[unit], step.name, step.key)
                counts.spent[place] = counts.spent.get(place, Cost()) + cost
    return counts


def _distinct(chains: dict[str, list[Step]]) -> list[Step]:
    return list({(s.name, s.key): s for steps in chains.values() for s in steps if s.settled}.values())


def _unit_costs(folder: RunFolder, step: Step) -> Iterator[tuple[int, Cost]]:
    for unit in sorted(folder.committed_units(step.name, step.key)):
        with contextlib.suppress(FileNotFoundError, CorruptDataError):
            yield unit, folder.read_footer(step.name, step.key, unit).cost


def _last_rows(folder: RunFolder, steps: list[Step], unit: int) -> list[PromptRow] | None:
    last = steps[-1]
    if not last.settled:
        return None
    try:
        return folder.read_block(last.name, last.key, unit)[1]
    except (FileNotFoundError, CorruptDataError):
        return None


def verify(folder: RunFolder, config: JobConfig, *, deep: bool) -> list[str]:
    """Everything that does not add up, a sentence each, naming unit or shard; [] for a sound run.

    deep: also decodes every image, hashes every shard member, and the editing files that were taken in, where they are.
    """
    return [*verify_made(folder, config, deep=deep), *verify_beside(folder, config)]


def verify_beside(folder: RunFolder, config: JobConfig) -> list[str]:
    """Of `verify` what `resume` does not mend; each says what does."""
    strays = stray_shards(folder, len(shard_ranges(folder, config.pack)))
    return [
        *(
            f"shards/{name}: no shard of this run, though loaders would read it; move it away, or delete it"
            for name in strays[:5]
        ),
        *(
            f"{path}: not as it was written, so `report` and `plan` leave its seconds out; delete it"
            for path, entries in folder.statistics()
            if entries is None
        ),
        *_verify_entries(folder, config),
    ]


def _verify_entries(folder: RunFolder, config: JobConfig) -> Iterator[str]:
    """Every row in quarantine has its entry."""
    for row in quarantined_rows(folder, config):
        if folder.quarantine_entry(row.stage, row.unit, row.row) is None:
            path = quarantine_path(row.stage, row.unit, row.row)
            what = "is missing" if folder.storage.size(path) is None else "is not as it was written"
            yield (
                f"unit {row.unit}, {row.stage}: {row.prompt_id} is in quarantine, and {path}, its traceback, {what}; "
                "`retry` does the row again all the same"
            )


def verify_made(folder: RunFolder, config: JobConfig, *, deep: bool) -> list[str]:
    """Of `verify` what is made of blocks: `resume --check-blocks` makes again what is missing or broken."""
    chains = resolve_chains(folder, config)
    problems: list[str] = []
    expected: dict[int, set[str]] = {}
    for unit in folder.units():
        steps = chains[folder.segment_of(unit).subset]
        expected[unit] = set()
        problems += _verify_unit(folder, steps, unit, expected[unit], deep=deep)
    ranges = shard_ranges(folder, config.pack)
    for index, units in enumerate(ranges):
        inputs = shard_inputs(folder, chains, config.pack, units)
        problems += _verify_shard(folder, index, units, expected, inputs, deep=deep)
    problems += _verify_index(folder, ranges, expected)
    if deep:
        problems += [said for said in changed_files(folder, deep=True) if not said.endswith(GONE)]
    return problems


def _verify_unit(folder: RunFolder, steps: list[Step], unit: int, keys: set[str], *, deep: bool) -> Iterator[str]:
    prompts = folder.prompts(unit)
    ids = [row.prompt.prompt_id for row in prompts]
    upstream = hash_rows(prompts)
    images: list[dict[int, str]] = [{} for _ in prompts]
    rows: list[PromptRow] = []
    for step in steps:
        where = f"unit {unit}, {step.name}"
        if not step.settled:
            yield f"{where}: not begun: its barrier is not settled"
            return
        try:
            footer, rows = folder.read_block(step.name, step.key, unit)
        except FileNotFoundError:
            yield f"{where}: the block is missing"
            return
        except CorruptDataError as error:
            yield f"{where}: {error}"
            return
        if [row.prompt.prompt_id for row in rows] != ids:
            yield f"{where}: its rows are not the unit's prompts"
            return
        if footer.input_hash != upstream:
            yield f"{where}: made from other rows than those before it hold now"
        upstream = footer.rows_hash
        yield from _verify_candidates(where, rows, images)
    last = f"unit {unit}, {steps[-1].name}"
    yield from _verify_outcomes(folder, last, unit, rows, keys)
    if deep:
        yield from _verify_images(folder, steps, unit, rows)


def _verify_candidates(where: str, rows: list[PromptRow], images: list[dict[int, str]]) -> Iterator[str]:
    """No candidate that a stage before made is lost or changed. images: hash by candidate, of each row; filled in."""
    for number, (row, known) in enumerate(zip(rows, images, strict=True)):
        now = {candidate.index: candidate.image_sha256 for candidate in row.candidates}
        if len(now) < len(row.candidates):
            yield f"{where}: two candidates of row {number} have the same number"
        for index, digest in known.items():
            if index not in now:
                yield f"{where}: candidate {index} of row {number} is lost"
            elif now[index] != digest:
                yield f"{where}: candidate {index} of row {number} changed on the way"
        known |= now


def _verify_outcomes(folder: RunFolder, where: str, unit: int, rows: list[PromptRow], keys: set[str]) -> Iterator[str]:
    """Every prompt has one outcome, every pair two candidates. keys: of the shipped pairs, filled in."""
    for number, row in enumerate(rows):
        makes_pairs = folder.info.job != "search"
        if row_outcome(row) is Outcome.SHIPPED and makes_pairs and not row.shipped_pairs:
            yield f"{where}: {row.prompt.prompt_id} is neither shipped, rejected nor in quarantine"
        known = {candidate.index for candidate in row.candidates}
        for pair in row.shipped_pairs:
            key = sample_key(unit, number, pair.index)
            if key in keys:
                yield f"{where}: two pairs of row {number} have the number {pair.index}"
            keys.add(key)
            if not {pair.good, pair.bad} <= known or pair.good == pair.bad:
                yield f"{where}: pair {pair.index} of row {number} names candidates that are not there"


def _verify_images(folder: RunFolder, steps: list[Step], unit: int, final: list[PromptRow]) -> Iterator[str]:
    """Images decode, have their hashes (checked on reading), and those of shipped pairs are there."""
    rows = final
    for step in steps:
        if step.link.stage.makes_images:
            try:
                rows = folder.with_images(rows, step.name, step.key, unit)
            except CorruptDataError as error:
                yield f"unit {unit}, {step.name}: {error}"
                return
    for number, row in enumerate(rows):
        paired = {i for pair in row.shipped_pairs for i in (pair.good, pair.bad)}
        for candidate in row.candidates:
            what = f"unit {unit}: image of row {number} candidate {candidate.index}"
            if candidate.image is not None:
                yield from _decodes(candidate.image, what)
            elif candidate.index in paired:
                yield f"{what} is missing"


def _decodes(image: bytes, what: str) -> Iterator[str]:
    try:
        decode_image(image, what)
    except CorruptDataError as error:
        yield str(error)


def _verify_shard(
    folder: RunFolder, index: int, units: range, expected: dict[int, set[str]], inputs: str, *, deep: bool
) -> Iterator[str]:
    sidecar = folder.sidecar(index)
    if sidecar is None:
        yield f"shard {index}: not packed (no sidecar that reads)"
        return
    where = f"shards/{shard_name(index)}"
    wanted = set().union(*(expected[unit] for unit in units))
    if sidecar.inputs != inputs:
        yield f"{where}: packed from other blocks than the run holds now"
    if (sidecar.name, sidecar.first_unit, sidecar.end_unit) != (shard_name(index), units.start, units.stop):
        yield f"{where}: its sidecar speaks of {sidecar.name}, units {sidecar.first_unit} to {sidecar.end_unit}"
    if sidecar.num_samples != len(wanted):
        yield f"{where}: its sidecar says {sidecar.num_samples} samples, the blocks hold {len(wanted)} shipped pairs"
    by_subset = Counter(folder.segment_of(unit).subset for unit in units for _ in expected[unit])
    if sidecar.num_samples_by_subset != by_subset:
        yield f"{where}: its sidecar says {sidecar.num_samples_by_subset} by subset, the blocks hold {dict(by_subset)}"
    try:
        data = folder.storage.read(where)
    except FileNotFoundError:
        if wanted or sidecar.num_samples:
            yield f"{where}: missing"
        elif _says_other_bytes(sidecar, encode_shard([])) or sidecar.members_sha256:
            yield f"{where}: it holds no pair, and its sidecar speaks of some"
        return
    if not wanted:
        yield f"{where}: there, though the blocks hold no pair for it"
        return
    if _says_other_bytes(sidecar, data):
        yield f"{where}: its bytes are not those that were packed ({len(data)} bytes, {sidecar.num_bytes} expected)"
    try:
        members = list(read_members(data, where))
    except CorruptDataError as error:
        yield str(error)
        return
    names = [name for name, _ in members]
    found = {name.partition(".")[0] for name in names}
    for missing in sorted(wanted - found)[:5]:
        yield f"{where}: pair {missing} is in the blocks and not in the shard"
    for extra in sorted(found - wanted)[:5]:
        yield f"{where}: sample {extra} is in the shard and not in the blocks"
    if sorted(names) != sorted(sidecar.members_sha256):
        yield f"{where}: its members are not those that its sidecar lists"
    for name, body in members if deep else ():
        if sidecar.members_sha256.get(name) != sha256(body):
            yield f"{where}: member {name} has other bytes than it was packed with"
        if ".good_image." in name or ".bad_image." in name:
            yield from _decodes(body, f"{where}: {name}")


def _says_other_bytes(sidecar: ShardSidecar, data: bytes) -> bool:
    return (hashlib.sha256(data).hexdigest(), len(data)) != (sidecar.sha256, sidecar.num_bytes)


def _verify_index(folder: RunFolder, ranges: list[range], expected: dict[int, set[str]]) -> Iterator[str]:
    num_pairs = sum(len(keys) for keys in expected.values())
    try:
        index = parse_object(folder.storage.read("shards/index.json"), "shards/index.json")
    except FileNotFoundError:
        index = None
        yield "shards/index.json: missing"
    except CorruptDataError as error:
        index = None
        yield str(error)
    if index is None:
        pass
    elif index.get("num_samples") != num_pairs:
        says = index.get("num_samples")
        yield f"shards/index.json: says {says} samples, the blocks hold {num_pairs} shipped pairs"
    elif index != index_of(folder, len(ranges)):
        yield "shards/index.json: does not list the shards as their sidecars describe them"


def stray_shards(folder: RunFolder, num_shards: int) -> list[str]:
    """Names of what loaders would take for shards of the run, and is none of them: a glob of `*.tar` finds it, or it is
    called like one."""
    known = {name(i) for i in range(num_shards) for name in (shard_name, sidecar_name)}
    tars = (name for name in folder.storage.names("shards") if name.endswith(".tar") and not name.startswith("."))
    return sorted({*tars, *filter(is_shard, folder.storage.names("shards"))} - known)
