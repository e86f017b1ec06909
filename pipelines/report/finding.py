"""Prompts of a run by words, as lines for a terminal, as plain data, and as images."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.jobs import JobConfig, resolve_chains
from pipelines.report.inspection import Inspection, inspect_unit
from pipelines.run_folder import RunFolder
from schemas.errors import CorruptDataError, InputError
from schemas.records import PromptRow

MAX_SHOWN = 20


def find_text(folder: RunFolder, config: JobConfig, words: str, *, with_images: bool = False) -> Inspection:
    """The prompts whose own words, reflections, reasons or tag hold all of `words`, in upper or lower case and any
    order: the first `MAX_SHOWN` whole, the ids of the others. InputError where there is none, and for no words."""
    wanted = words.casefold().split()
    if not wanted:
        raise InputError("no words", field="--find", expected='for example --find "blue ring"')
    found = [
        (unit, index, row.prompt.prompt_id)
        for unit in folder.units()
        for index, row in enumerate(_latest(folder, config, unit))
        if all(word in text for text in [_searched(row)] for word in wanted)
    ]
    if not found:
        raise InputError(
            f"{folder.storage.uri}: nothing holds all of {words!r}", field="--find", expected="fewer words"
        )
    shown = [inspect_unit(folder, config, unit, row, with_images=with_images) for unit, row, _ in found[:MAX_SHOWN]]
    more = [prompt_id for _, _, prompt_id in found[MAX_SHOWN:]]
    lines = [f"{len(found)} of {sum(one.num_prompts for one in folder.info.segments)} prompts hold all of {words!r}"]
    for one, (unit, _, _) in zip(shown, found, strict=False):
        lines += ["", f"unit {unit}", *one.lines[one.lines.index("") + 1 :]]
    if more:
        lines += [
            "",
            f"and {len(more)} more (--prompt): {', '.join(more[:MAX_SHOWN])}{', ...' if more[MAX_SHOWN:] else ''}",
        ]
    rows = [{"unit": unit, **row} for one, (unit, _, _) in zip(shown, found, strict=False) for row in one.data["rows"]]
    images = {name: data for one in shown for name, data in one.images.items()}
    return Inspection({"found": len(found), "rows": rows, "more": more}, lines, images)


def _latest(folder: RunFolder, config: JobConfig, unit: int) -> list[PromptRow]:
    """A unit's rows as far as they are made."""
    for step in reversed(resolve_chains(folder, config)[folder.segment_of(unit).subset]):
        if not step.settled:
            continue
        try:
            return folder.read_block(step.name, step.key, unit)[1]
        except (FileNotFoundError, CorruptDataError):
            continue
    return folder.prompts(unit)


def _searched(row: PromptRow) -> str:
    def texts() -> Iterator[str | None]:
        yield from (row.prompt.prompt_id, row.prompt.text, row.prompt.tag)
        for pair in row.pairs:
            yield pair.reflection.text if pair.reflection else None
        for candidate in row.candidates:
            yield candidate.text
            yield candidate.search.reflection if candidate.search else None
            yield from candidate.check.reasons if candidate.check else ()
        if row.rejection:
            yield from (row.rejection.reason, row.rejection.detail)
        if row.quarantine:
            yield row.quarantine.error

    return "\n".join(text for text in texts() if text).casefold()
