"""CommonsenseT2I: folders of images beside its data, checked before anything is judged, and its table.

A folder of images is as the benchmark's own code writes it: `prompt1_img/original/0001-1.png` is image 1 of the first
prompt of pair 1, `prompt2_img/original/0001-1.png` that of the second. Pairs count from 1, as do images. What is drawn
once under several conditions (base and expanded prompts, base and distilled generator) is a folder each: the rows of
the table, whose differences are paired.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from inference.judges.commonsense_t2i import CommonsensePair, mean_over_pairs, means_by, supported
from inference.judges.description_judge import Verdict
from inference.judges.intervals import Interval
from schemas.errors import InputError
from schemas.foreign_json import quote
from schemas.images import FORMATS

SIDES = (1, 2)
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", *(f".{f.lower()}" for f in FORMATS)}
_NAME = re.compile(r"(?P<pair>\d{1,9})(?:[-_](?P<image>\d{1,9}))?", re.ASCII)
LAYOUT = "prompt1_img/original/0001-1.png: image 1 of the first prompt of pair 1 (png, jpg, ...); prompt2_img beside it"


@dataclass(frozen=True)
class Condition:
    """A row of the table. prompts: what was drawn, of each pair; None: unknown. against: the row that it is compared
    with; None: with none."""

    name: str
    folder: Path
    prompts: Sequence[tuple[str, str]] | None = None
    against: str | None = None


@dataclass(frozen=True)
class Shown:
    """One image. pair: its number, from 1. name: as in results.jsonl."""

    condition: str
    pair: int
    side: int
    image: int
    path: Path
    name: str
    prompt: str
    descriptions: tuple[str, str]
    sha256: str = ""

    @property
    def metadata(self) -> str:
        """What a verdict on its bytes depends on."""
        return json.dumps(self.descriptions)


def image_path(folder: Path, pair: int, side: int, image: int) -> Path:
    """Where an image is drawn to."""
    return folder / f"prompt{side}_img" / "original" / f"{pair:04d}-{image}.png"


def find_images(
    condition: Condition, pairs: Sequence[CommonsensePair], root: Path
) -> tuple[list[Shown], list[InputError], int]:
    """Images of a folder in order of pairs, of which there are as many of both prompts; what is wrong with the pairs
    that lack some; and how many files belong to no pair. root: what names are relative to."""
    folder = condition.folder
    of_side = [_of_side(folder, side) for side in SIDES]
    if of_side == [{}, {}]:
        raise InputError("holds no images of pairs", file=str(folder), field="--images", expected=LAYOUT)
    others = sum(len(files) for found in of_side for pair, files in found.items() if not 1 <= pair <= len(pairs))
    shown: list[Shown] = []
    faults: list[InputError] = []
    for number, pair in enumerate(pairs, 1):
        first, second = (found.get(number, {}) for found in of_side)
        for side, (mine, its) in enumerate(((first, second), (second, first)), 1):
            missing = ", ".join(map(str, sorted(its.keys() - mine.keys())))
            what = "no image" if not mine else f"no image {missing}, which the other prompt has," if missing else ""
            if what:
                problem = f"{what} of pair {number}, prompt {side} ({quote(pair.prompts[side - 1])})"
                faults.append(InputError(problem, file=str(folder)))
        for image in sorted(first.keys() & second.keys()):
            for side, files in ((1, first), (2, second)):
                path = files[image]
                said = (condition.prompts[number - 1] if condition.prompts else pair.prompts)[side - 1]
                name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
                shown.append(Shown(condition.name, number, side, image, path, name, said, pair.descriptions))
    return shown, faults, others


def _of_side(folder: Path, side: int) -> dict[int, dict[int, Path]]:
    """Files by pair and image. Where there is an `original`, what lies beside it are contact sheets; so is a file
    without an image's number beside some that have one."""
    places = [folder / f"prompt{side}_img" / "original", folder / f"prompt{side}_img", folder / f"prompt{side}"]
    place = next((one for one in places if one.is_dir()), None)
    found: dict[int, dict[int, Path]] = {}
    bare: dict[int, Path] = {}
    for path in sorted(place.iterdir()) if place is not None else ():
        said = _NAME.fullmatch(path.stem)
        if path.name.startswith(".") or path.suffix.lower() not in _SUFFIXES or path.is_dir() or said is None:
            continue
        if said["image"] is None:
            bare.setdefault(int(said["pair"]), path)
        else:
            found.setdefault(int(said["pair"]), {}).setdefault(int(said["image"]), path)
    return {pair: {1: path} for pair, path in bare.items() if pair not in found} | found


def result_line(shown: Shown, verdict: Verdict) -> dict[str, Any]:
    """What is kept of one image: whether it fits each description. correct: its own, and not the other (what the coin
    makes of one that fits both is decided when all are there)."""
    own, other = verdict.fits if shown.side == 1 else verdict.fits[::-1]
    return {
        "filename": shown.name,
        "fits1": verdict.fits[0],
        "fits2": verdict.fits[1],
        "said": list(verdict.said),
        "correct": own is True and other is False,
        "metadata": shown.metadata,
    }


def with_rule(shown: Shown, line: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A line of results.jsonl: the verdict with CommonsenseT2I's rule. The coin of an image that fits both is the same
    in every row of the table."""
    fits = (line["fits1"], line["fits2"])
    supports = supported(fits, seed, shown.pair, shown.side, shown.image)
    return {
        "row": shown.condition,
        "filename": shown.name,
        "pair": shown.pair,
        "side": shown.side,
        "image": shown.image,
        "prompt": shown.prompt,
        "description1": shown.descriptions[0],
        "description2": shown.descriptions[1],
        "fits1": fits[0],
        "fits2": fits[1],
        "said": line["said"],
        "supports": supports,
        "by_chance": fits == (True, True),
        "correct": supports == shown.side,
    }


def summarise(
    conditions: Sequence[Condition], pairs: Sequence[CommonsensePair], lines: Sequence[Mapping[str, Any]], judge: str
) -> dict[str, Any]:
    """The table, in % of tries with both images right, averaged over pairs: every figure with its 95 % interval over
    pairs. changes: between two rows, of the pairs that both have."""
    values = {one.name: _by_pair(line for line in lines if line["row"] == one.name) for one in conditions}
    rows, changes = {}, {}
    for one in conditions:
        mine = [line for line in lines if line["row"] == one.name]
        rows[one.name] = _scores(values[one.name], pairs) | {
            "num_pairs": len(values[one.name]),
            "num_images": len(mine),
            "by_chance": sum(line["by_chance"] for line in mine),
            "neither": sum(line["fits1"] is False and line["fits2"] is False for line in mine),
            "not_understood": sum(line["fits1"] is None or line["fits2"] is None for line in mine),
        }
        if one.against is not None:
            before, after = values[one.against], values[one.name]
            both = [number for number in after if number in before]
            if both:
                changes[one.name] = {"against": one.against} | _scores(
                    {number: after[number] - before[number] for number in both}, pairs
                )
    return {"judge": judge, "num_pairs": len(pairs), "rows": rows, "changes": changes}


def _by_pair(lines: Any) -> dict[int, float]:
    """Share of each pair's tries with both images right."""
    right: dict[int, dict[int, list[bool]]] = {}
    for line in lines:
        right.setdefault(line["pair"], {}).setdefault(line["image"], []).append(line["correct"])
    return {pair: fmean(float(all(both)) for both in tries.values()) for pair, tries in right.items()}


def _scores(values: Mapping[int, float], pairs: Sequence[CommonsensePair]) -> dict[str, Any]:
    """all, by_category and, where the data have them, by_likelihood."""
    mine, numbers = [pairs[number - 1] for number in values], list(values.values())
    found: dict[str, Any] = {"all": _percent(mean_over_pairs(mine, numbers))}
    for name, tags in (
        ("by_category", [pair.category for pair in mine]),
        ("by_likelihood", [pair.likelihood or "not said" for pair in mine]),
    ):
        if name == "by_category" or any(pair.likelihood for pair in mine):
            found[name] = {tag: _percent(one) for tag, one in sorted(means_by(tags, mine, numbers).items())}
    return found


def _percent(found: Interval) -> list[float | None]:
    """None for what is no number."""
    return [None if one is None or math.isnan(one) else round(100 * one, 2) for one in found.as_list()]


def figure_words(found: Sequence[float | None], form: str) -> str:
    """A figure with its interval, where it has one. form: of each number."""
    value, low, high = found
    return f"{value:{form}}" + ("" if low is None or high is None else f" [{low:{form}}, {high:{form}}]")
