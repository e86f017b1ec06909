"""CommonsenseT2I's protocol (Fu et al. 2024): pairs of underspecified prompts, each with what it should show.

"A lightbulb without electricity" and "a lightbulb with electricity": they differ in a word, and common sense says how
their images must differ. Image j of the first prompt and image j of the second make one try; it counts when each image
fits its own description and not the other's. The figure is the share of tries, by category and over all pairs.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inference.interfaces import ChatRequest, Vlm
from inference.judges.intervals import Interval, mean_over_tags
from schemas.absent import is_absent
from schemas.errors import InputError

FIELDS = ("prompt1", "prompt2", "description1", "description2")
JUDGE_PROMPT = (
    'Does the image generally fit the description "{description}"? Answer with 1 if it does, and with 0 if it does not.'
)


@dataclass(frozen=True)
class CommonsensePair:
    """Two prompts and their descriptions."""

    prompts: tuple[str, str]
    descriptions: tuple[str, str]
    category: str = "all"


class DescriptionJudge(Protocol):
    """What looks at the images. Never used inside a search or a training."""

    def fits(self, images: Sequence[np.ndarray], own: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """bool (n,): whether each image, uint8 (H, W, 3), fits its own description and not the other one."""
        ...


class VlmDescriptionJudge:
    """A multimodal model that is asked about each description by itself (the published judge is GPT-4o)."""

    def __init__(self, vlm: Vlm, prompt: str = JUDGE_PROMPT) -> None:
        self._vlm, self._prompt = vlm, prompt

    def fits(self, images: Sequence[np.ndarray], own: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """See `DescriptionJudge`. An answer that is neither 1 nor 0 fits nothing."""
        from inference.vlm.reasoning import answer_of

        asked = [*zip(images, own, strict=True), *zip(images, other, strict=True)]
        requests = [ChatRequest(self._prompt.replace("{description}", text), (image,)) for image, text in asked]
        said = [(answer_of(answer.text) or "")[:1] for answer in self._vlm.answer(requests)]
        return np.array([a == "1" and b == "0" for a, b in zip(said[: len(own)], said[len(own) :], strict=True)], bool)


class ClipDescriptionJudge:
    """The published alternative: of the two descriptions, a CLIP model finds the own one the more probable."""

    def __init__(self, reward: Any) -> None:
        """reward: an `inference.interfaces.Reward`, such as `ClipReward`."""
        self._reward = reward

    def fits(self, images: Sequence[np.ndarray], own: Sequence[str], other: Sequence[str]) -> np.ndarray:
        """See `DescriptionJudge`."""
        return np.asarray(self._reward.score(images, own)) > np.asarray(self._reward.score(images, other))


def read_pairs(path: Path) -> list[CommonsensePair]:
    """Pairs of CommonsenseT2I's file, saved as .jsonl, .json (a list), .csv or .parquet. InputError (file, line)."""
    rows, first = _rows(path)
    pairs = []
    for line, row in enumerate(rows, first):
        for name in FIELDS:
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or is_absent(row[name]):
                raise InputError("no text", file=str(path), line=line, field=name, expected=", ".join(FIELDS))
        prompts, descriptions = ((row[f"{name}1"], row[f"{name}2"]) for name in ("prompt", "description"))
        pairs.append(
            CommonsensePair(prompts, descriptions, "all" if is_absent(row.get("category")) else str(row["category"]))
        )
    if not pairs:
        raise InputError("no pairs", file=str(path), expected="rows with " + ", ".join(FIELDS))
    return pairs


def _rows(path: Path) -> tuple[list[Any], int]:
    """Plain rows, and the number of the first one's line."""
    if not path.is_file():
        raise InputError("no such file", file=str(path), expected="CommonsenseT2I as .jsonl, .json, .csv or .parquet")
    try:
        match path.suffix:
            case ".jsonl":
                return [json.loads(line) for line in path.read_text("utf-8-sig").split("\n") if line.strip()], 1
            case ".json":
                rows = json.loads(path.read_text("utf-8-sig"))
                return rows if isinstance(rows, list) else [rows], 1
            case ".csv":
                with path.open(encoding="utf-8-sig", newline="") as file:
                    return list(csv.DictReader(file)), 2
            case ".parquet":
                import pyarrow.parquet

                with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
                    columns = [name for name in (*FIELDS, "category") if name in file.schema_arrow.names]
                    batches = file.iter_batches(256, columns=columns, use_threads=False)
                    return [row for batch in batches for row in batch.to_pylist()], 1
            case _:
                raise InputError("unknown kind of file", file=str(path), expected=".jsonl, .json, .csv or .parquet")
    except (ValueError, OSError) as error:
        raise InputError(
            f"does not read: {error}", file=str(path), expected="rows with " + ", ".join(FIELDS)
        ) from error


def judge_pairs(
    pairs: Sequence[CommonsensePair],
    images: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]],
    judge: DescriptionJudge,
) -> np.ndarray:
    """bool (pairs, 2, tries): whether image j of each prompt fits it. images: of each pair, those of both prompts."""
    if len(pairs) != len(images) or any(len(first) != len(second) for first, second in images):
        raise InputError("another number of images", expected="for each pair as many of one prompt as of the other")
    shown, own, other = [], [], []
    for pair, both in zip(pairs, images, strict=True):
        for side, of_prompt in enumerate(both):
            shown += list(of_prompt)
            own += [pair.descriptions[side]] * len(of_prompt)
            other += [pair.descriptions[1 - side]] * len(of_prompt)
    if not shown:
        return np.zeros((len(pairs), 2, 0), bool)
    return np.asarray(judge.fits(shown, own, other), bool).reshape(len(pairs), 2, -1)


def pair_accuracy(fits: np.ndarray) -> np.ndarray:
    """bool (pairs, 2, tries) -> float (pairs,): share of the tries of which both images fit."""
    return fits.all(axis=1).mean(axis=1)


def accuracy_by_category(pairs: Sequence[CommonsensePair], values: np.ndarray) -> dict[str, float]:
    """Means of one value a pair, by category; `avg` over all pairs, as the benchmark averages."""
    categories = [pair.category for pair in pairs]
    found = {
        name: float(np.mean([v for v, c in zip(values, categories, strict=True) if c == name]))
        for name in dict.fromkeys(categories)
    }
    return {**found, "avg": float(np.mean(values)) if len(values) else float("nan")}


def mean_over_pairs(pairs: Sequence[CommonsensePair], values: np.ndarray, seed: int = 0) -> Interval:
    """Mean over pairs with its 95 % interval, pairs resampled; of differences, a paired comparison."""
    return mean_over_tags(values, ["all"] * len(pairs), [pair.prompts for pair in pairs], seed)
