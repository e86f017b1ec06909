"""One unit, prompt or shard of a run, as lines for a terminal, as plain data for `--json`, and as images."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.pack_shards import shard_ranges
from pipelines.report.describe import outcome_of, row_lines, sample_lines, verdict
from pipelines.run_folder import RunFolder
from pipelines.run_names import quarantine_path
from pipelines.stage import Step
from schemas.blocks import BlockFooter
from schemas.errors import CorruptDataError, InputError
from schemas.new_file import write_all_new
from schemas.places import local_path
from schemas.plain_text import one_line
from schemas.records import PromptRow
from schemas.shards import ShardSample, decode_shard, shard_name


@dataclass(frozen=True)
class Inspection:
    """What there is to say. data: plain, for JSON. images: encoded, by file name."""

    data: dict[str, Any]
    lines: list[str]
    images: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Block:
    """One stage's block of a unit. state: committed, missing, unreadable, or waiting (for a barrier)."""

    step: Step
    state: str
    path: str
    footer: BlockFooter | None = None
    rows: tuple[PromptRow, ...] = ()
    problem: str = ""


def inspect_run(folder: RunFolder, config: JobConfig) -> Inspection:
    """What can be asked for: units by subset, shards, a few prompt ids."""
    subsets = []
    lines = [f"{folder.storage.uri}: preset {folder.info.preset}, seed {folder.info.seed}"]
    for subset, steps in resolve_chains(folder, config).items():
        units = folder.units(subset)
        done = {
            s.name: len(folder.committed_units(s.name, s.key).intersection(units)) if s.settled else 0 for s in steps
        }
        first = folder.prompts(units[0])[0].prompt.prompt_id if units else None
        last = folder.prompts(units[-1])[-1].prompt.prompt_id if units else None
        subsets.append({"subset": subset, "units": units, "first_prompt": first, "last_prompt": last, "stages": done})
        shown = (
            f"units {units[0]} to {units[-1]} (--unit), prompts {first} to {last} (--prompt)" if units else "no units"
        )
        lines.append(f"  {subset}: {shown}")
        lines += [f"    {name:<22} {count}/{len(units)} units committed" for name, count in done.items()]
    shards = []
    for index, units in enumerate(shard_ranges(folder, config.pack)):
        sidecar = folder.sidecar(index)
        samples = sidecar.num_samples if sidecar else None
        shards.append({"shard": index, "units": [units.start, units.stop], "num_samples": samples})
        packed = "not packed yet" if samples is None else f"{samples} samples"
        if index < 20:
            lines.append(f"  shard {index} (--shard): units {units.start} to {units.stop - 1}, {packed}")
    if len(shards) > 20:
        lines.append(f"  and shards 20 to {len(shards) - 1}")
    return Inspection({"subsets": subsets, "shards": shards}, lines)


def locate_prompt(folder: RunFolder, prompt_id: str) -> tuple[int, int]:
    """(unit, row) of a prompt. InputError when the run has no such prompt."""
    for unit in folder.units():
        for index, row in enumerate(folder.prompts(unit)):
            if row.prompt.prompt_id == prompt_id:
                return unit, index
    known = folder.prompts(folder.units()[0])[0].prompt.prompt_id if folder.units() else "none"
    raise InputError(
        f"{folder.storage.uri}: no prompt {one_line(prompt_id)!r}",
        field="--prompt",
        expected=f"an id such as {known}",
    )


def inspect_unit(
    folder: RunFolder, config: JobConfig, unit: int, only_row: int | None = None, *, with_images: bool = False
) -> Inspection:
    """A unit's blocks and rows, or one of its rows. InputError when the run has no such unit."""
    if unit not in folder.units():
        raise InputError(
            f"{folder.storage.uri}: no unit {unit}", field="--unit", expected=f"0 to {folder.num_units - 1}"
        )
    subset = folder.segment_of(unit).subset
    steps = resolve_chains(folder, config)[subset]
    blocks = [_read(folder, step, unit) for step in steps]
    whole = [block for block in blocks if block.state == "committed"]
    rows = list(whole[-1].rows) if whole else folder.prompts(unit)
    finished = blocks[-1].state == "committed"
    chosen = range(len(rows)) if only_row is None else [only_row]
    images: dict[str, bytes] = {}
    lines = [f"unit {unit} of {folder.storage.uri}: {subset}, {len(rows)} prompts"]
    lines += [_block_line(block) for block in blocks]
    for index in chosen:
        lines += [
            "",
            *row_lines(rows[index], finished=finished, entry=_quarantine_path(rows[index], unit, index)),
        ]
    if with_images:
        rows = _with_images(folder, [block.step for block in whole], unit, rows)
        images = dict(item for index in chosen for item in _row_images(rows[index]))
    data = {
        "unit": unit,
        "subset": subset,
        "stages": [_block_data(block) for block in blocks],
        "rows": [{"row": index, **_row_data(rows[index], finished=finished)} for index in chosen],
    }
    return Inspection(data, lines, images)


def inspect_shard(folder: RunFolder, config: JobConfig, index: int) -> Inspection:
    """A shard's sidecar and samples. InputError for a shard that the run does not have, or has not packed yet."""
    ranges = shard_ranges(folder, config.pack)
    if not 0 <= index < len(ranges):
        raise InputError(f"{folder.storage.uri}: no shard {index}", field="--shard", expected=f"0 to {len(ranges) - 1}")
    sidecar = folder.sidecar(index)
    if sidecar is None:
        raise InputError(
            f"{folder.storage.uri}: shard {index} is not packed yet, or its sidecar does not read: `resume` packs it",
            field="--shard",
            expected="a finished shard",
        )
    path = f"shards/{shard_name(index)}"
    samples: list[ShardSample] = []
    try:
        if sidecar.num_samples:
            with folder.storage.open(path) as file:
                samples = decode_shard(file, path)
    except FileNotFoundError:
        raise CorruptDataError(f"{path}: missing, although its sidecar is there; `resume` packs it again") from None
    lines = [
        f"{path}: units {sidecar.first_unit} to {sidecar.end_unit - 1}, {sidecar.num_samples} samples, "
        f"{sidecar.num_bytes:,} bytes, sha256 {sidecar.sha256[:16]}"
    ]
    for sample in samples:
        lines += ["", *sample_lines(sample)]
    images = {
        f"{safe_name(sample.key)}-{side}.{sample.image_format}": image
        for sample in samples
        for side, image in (("good", sample.good_image), ("bad", sample.bad_image))
    }
    described = [
        {"key": s.key, "subset": s.subset, "prompt": s.prompt, "reflection": s.reflection, "meta": s.meta}
        for s in samples
    ]
    told = {name: value for name, value in asdict(sidecar).items() if name != "members_sha256"}
    return Inspection({"shard": index, "sidecar": told, "samples": described}, lines, images)


def write_images(images: Mapping[str, bytes], record: Mapping[str, bytes], folder: str) -> int:
    """Write images, and a record of them, into a local folder, made if need be, over nothing that has other bytes.
    Returns how many images. InputError."""
    write_all_new(local_path(Path(folder)), {**images, **record}, "--images")
    return len(images)


def safe_name(text: str) -> str:
    """A file name without anything that a shell or a file system might take for something else."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:100] or "_"


def _read(folder: RunFolder, step: Step, unit: int) -> _Block:
    if not step.settled:
        return _Block(step, "waiting", step.barrier_path or "", problem="a barrier before it is not settled")
    path = folder.block_path(step.name, step.key, unit)
    try:
        footer, rows = folder.read_block(step.name, step.key, unit)
    except FileNotFoundError:
        return _Block(step, "missing", path, problem="not committed yet")
    except CorruptDataError as error:
        return _Block(step, "unreadable", path, problem=str(error))
    return _Block(step, "committed", path, footer, tuple(rows))


def _with_images(folder: RunFolder, steps: Sequence[Step], unit: int, rows: list[PromptRow]) -> list[PromptRow]:
    for step in steps:
        if step.link.stage.makes_images:
            rows = folder.with_images(rows, step.name, step.key, unit)
    return rows


def _row_images(row: PromptRow) -> Iterator[tuple[str, bytes]]:
    for candidate in row.candidates:
        if candidate.image is not None:
            yield (
                f"{safe_name(row.prompt.prompt_id)}-c{candidate.index:02d}-{verdict(candidate)}.png",
                candidate.image,
            )


def _quarantine_path(row: PromptRow, unit: int, index: int) -> str:
    return quarantine_path(row.quarantine.stage, unit, index) if row.quarantine else ""


def _block_data(block: _Block) -> dict[str, Any]:
    about = asdict(block.footer) if block.footer else {"stage": block.step.name, "key": block.step.key}
    return about | {"state": block.state, "path": block.path, "problem": block.problem}


def _row_data(row: PromptRow, *, finished: bool) -> dict[str, Any]:
    """Without image and mask bytes."""
    stripped = tuple(
        replace(
            c,
            image=None,
            check=replace(c.check, objects=tuple(replace(o, mask_png=None) for o in c.check.objects))
            if c.check
            else None,
        )
        for c in row.candidates
    )
    data: dict[str, Any] = asdict(replace(row, candidates=stripped))
    for candidate in data["candidates"]:
        del candidate["image"]
        for found in (candidate["check"] or {}).get("objects", ()):
            del found["mask_png"]
    return data | {"outcome": outcome_of(row, finished=finished)}


def _block_line(block: _Block) -> str:
    name = f"  {block.step.name:<22}"
    footer = block.footer
    if footer is None:
        return f"{name} {block.state}: {one_line(block.problem)}"
    cost = footer.cost.in_words()
    return (
        f"{name} key {footer.key}  input {footer.input_hash[:12]}  rows {footer.rows_hash[:12]}  "
        f"{footer.num_rows} rows, {footer.num_rejected} rejected, {footer.num_quarantined} in quarantine, "
        f"{footer.num_pairs} pairs{'; ' + cost if cost else ''}\n    {block.path}"
    )
