"""The page of a CommonsenseT2I evaluation: the table, and each pair's images beside the two descriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.judges.commonsense_t2i import CommonsensePair
from pipelines.commonsense_t2i import SIDES, figure_words
from pipelines.report.pictures import data_uri
from pipelines.report.shell import as_filter, render
from schemas.named_file import MAX_IMAGE_BYTES, read_file

MAX_PICTURES = 1200
PICTURE_PX = 224
Table = tuple[str, list[str], list[tuple[str, list[str]]]]
"""Its title, heads of columns, and rows by name."""


@dataclass(frozen=True)
class Drawn:
    """One image. what: for those who do not see it. about: its file, and what the judge said."""

    uri: str
    what: str
    verdict: str
    is_right: bool
    about: str


@dataclass(frozen=True)
class Row:
    """Images of one row of the table. prompt: what was drawn, where it is not the pair's own."""

    name: str
    prompt: str
    shown: tuple[Drawn, ...]


@dataclass(frozen=True)
class Side:
    """One of a pair's two prompts."""

    prompt: str
    description: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Pair:
    """verdict: right or wrong, of all its tries."""

    number: int
    category: str
    likelihood: str
    verdict: str
    sides: tuple[Side, ...]


def render_page(
    summary: Mapping[str, Any],
    pairs: Sequence[CommonsensePair],
    lines: Sequence[Mapping[str, Any]],
    files: Mapping[str, Path],
) -> bytes:
    """HTML without anything from elsewhere. files: of the lines, by their `filename`. Where there are too many images,
    the first tries of each pair are shown, and then the first pairs."""
    names = list(summary["rows"])
    of_pair: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        of_pair.setdefault(line["pair"], []).append(line)
    a_try = len(SIDES) * len(names)
    tries = max(1, MAX_PICTURES // (a_try * len(of_pair)))
    numbers = sorted(of_pair)[: max(1, MAX_PICTURES // a_try)]
    shown = [_pair(number, pairs[number - 1], names, of_pair[number], tries, files) for number in numbers]
    categories = sorted({one.category for one in shown})
    tables = [_table("Both images right, 95 %", summary["rows"], ".1f")]
    if summary["changes"]:
        changes = {f"{name} − {row['against']}": row for name, row in summary["changes"].items()}
        tables.append(_table("Change, 95 %", changes, "+.1f"))
    figures = ", ".join(f"{name} {row['all'][0]:.1f}" for name, row in summary["rows"].items())
    return render(
        "commonsense.html.j2",
        name=f"CommonsenseT2I: {figures}",
        summary=summary,
        num_images=len(lines),
        tables=tables,
        pairs=shown,
        across=max(4, min(tries, max(line["image"] for line in lines))),
        more=_left_out(len(of_pair) - len(shown), tries, lines),
        filters=[
            as_filter("verdict", "Pairs", {"right": "all images right", "wrong": "some are not"}),
            as_filter("category", "Category", {name: name for name in categories}),
        ],
        words=["try", "given to", "judge", "95 %"],
    )


def _table(title: str, columns: Mapping[str, Mapping[str, Any]], form: str) -> Table:
    """A row for all pairs, and one a category. form: of a number."""
    categories = sorted({name for column in columns.values() for name in column["by_category"]})
    rows = [("all", [figure_words(column["all"], form) for column in columns.values()])]
    if categories != ["all"]:
        found = [column["by_category"] for column in columns.values()]
        rows += [(name, [figure_words(one[name], form) if name in one else "" for one in found]) for name in categories]
    return title, list(columns), rows


def _left_out(num_pairs: int, tries: int, lines: Sequence[Mapping[str, Any]]) -> str:
    more = [f"{num_pairs:,} more pairs"] if num_pairs else []
    if len({line["image"] for line in lines}) > tries:
        more.append("more images of each pair")
    told = " and ".join(more)
    return told[:1].upper() + told[1:]


def _pair(
    number: int,
    pair: CommonsensePair,
    names: Sequence[str],
    lines: Sequence[Mapping[str, Any]],
    tries: int,
    files: Mapping[str, Path],
) -> Pair:
    def row(name: str, side: int) -> Row:
        drawn = [line for line in lines if (line["row"], line["side"]) == (name, side)][:tries]
        prompt = next((line["prompt"] for line in drawn), "")
        shown = tuple(_drawn(line, files[line["filename"]]) for line in drawn)
        return Row(name, "" if prompt == pair.prompts[side - 1] else prompt, shown)

    sides = tuple(
        Side(pair.prompts[side - 1], pair.descriptions[side - 1], tuple(row(name, side) for name in names))
        for side in SIDES
    )
    verdict = "right" if all(line["correct"] for line in lines) else "wrong"
    return Pair(number, pair.category, pair.likelihood, verdict, sides)


def _drawn(line: Mapping[str, Any], file: Path) -> Drawn:
    verdict = verdict_words(line)
    what = f"Pair {line['pair']}, prompt {line['side']}, {line['row']}, image {line['image']}: {verdict}"
    said = " / ".join(text for text in line["said"] if text)
    about = line["filename"] + (f"; the judge said: {said}" if said else "")
    return Drawn(data_uri(read_file(file, MAX_IMAGE_BYTES), PICTURE_PX), what, verdict, line["correct"], about)


def verdict_words(line: Mapping[str, Any]) -> str:
    """ "fits both, given to the other"."""
    own, other = (line["fits1"], line["fits2"]) if line["side"] == 1 else (line["fits2"], line["fits1"])
    if None in (own, other):
        return "answer not understood"
    if line["by_chance"]:
        return f"fits both, given to {'this one' if line['correct'] else 'the other'}"
    return {(True, False): "fits", (False, True): "fits the other"}.get((own, other), "fits neither")
