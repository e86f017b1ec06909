"""Figures of a dataset for its card: counts, texts, agreement, duplicates, contamination, cost; in one pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipelines.conservation import Tally, row_outcome
from pipelines.jobs import JobConfig, resolve_chains
from pipelines.prompts.overlap import BenchmarkOverlap
from pipelines.run_folder import RunFolder
from schemas.errors import CorruptDataError
from schemas.images import decode_image
from schemas.records import Cost, Outcome, PromptRow

NEAR_BITS = 4  # perceptual hashes of 64 bits that differ in at most so many are called alike
_OPENING_WORDS = 2
_MAX_NAMED = 12


@dataclass
class SubsetFigures:
    """Counts of one subset."""

    prompts: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)
    difficulty: Counter[str] = field(default_factory=Counter)
    prompt_reasons: Counter[str] = field(default_factory=Counter)
    pair_reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class DatasetFigures:
    """Everything a card says.

    judged, agreed: pairs by the side of their good image that an annotator compared, and whose label it gave.
    words: of shipped reflections, by number. likeness: of shipped pairs, by subset and what measured it.
    overlaps: shipped prompts that repeat a benchmark's, by kind.
    """

    subsets: dict[str, SubsetFigures] = field(default_factory=dict)
    counts: Tally = field(default_factory=Tally)
    judged: Counter[str] = field(default_factory=Counter)
    agreed: Counter[str] = field(default_factory=Counter)
    annotators: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    likeness: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    openings: Counter[str] = field(default_factory=Counter)
    equal_reflections: int = 0
    equal_prompts: int = 0
    equal_images: int = 0
    similar_images: int = 0
    overlaps: Counter[str] = field(default_factory=Counter)
    cost: dict[str, Cost] = field(default_factory=dict)

    def agreement(self, side: str) -> float | None:
        """Share of the pairs with the good image on that side whose verdict was right; None without any."""
        return self.agreed[side] / self.judged[side] if self.judged[side] else None


def dataset_figures(folder: RunFolder, config: JobConfig, overlap: BenchmarkOverlap | None = None) -> DatasetFigures:
    """Counts from committed blocks. Images of shipped pairs are read, a unit at a time."""
    overlap = overlap or BenchmarkOverlap.shipped()
    figures = DatasetFigures()
    texts: Counter[str] = Counter()
    prompts: Counter[str] = Counter()
    digests: Counter[str] = Counter()
    hashes: list[int] = []
    chains = resolve_chains(folder, config)
    for subset, steps in chains.items():
        of_subset = figures.subsets.setdefault(subset, SubsetFigures())
        for unit in folder.units(subset):
            try:
                _, rows = folder.read_block(steps[-1].name, steps[-1].key, unit)
                if any(row.shipped_pairs for row in rows):
                    for step in steps:
                        if step.link.stage.makes_images:
                            rows = folder.with_images(rows, step.name, step.key, unit)
            except (FileNotFoundError, CorruptDataError):
                of_subset.prompts[Outcome.PENDING] += len(folder.prompts(unit))
                continue
            for row in rows:
                figures.counts.add(row)
                _count_row(figures, of_subset, row)
                texts.update(p.reflection.text for p in row.shipped_pairs if p.reflection)
                if row.shipped_pairs:
                    prompts[row.prompt.text] += 1
                    if (kind := overlap.find(row.prompt)) is not None:
                        figures.overlaps[kind.value] += 1
                for digest, image in _shipped_images(row):
                    digests[digest] += 1
                    if digests[digest] == 1:
                        hashes.append(difference_hash(image))
        for step in steps:
            if step.name not in figures.cost:
                figures.cost[step.name] = Cost()
            for unit in folder.units(subset):
                try:
                    figures.cost[step.name] += folder.read_footer(step.name, step.key, unit).cost
                except (FileNotFoundError, CorruptDataError):
                    continue
    figures.equal_reflections = sum(n - 1 for n in texts.values())
    figures.equal_prompts = sum(n - 1 for n in prompts.values())
    figures.equal_images = sum(n - 1 for n in digests.values())
    figures.similar_images = num_similar(hashes)
    return figures


def _count_row(figures: DatasetFigures, subset: SubsetFigures, row: PromptRow) -> None:
    subset.prompts[row_outcome(row)] += 1
    if row.rejection is not None:
        subset.prompt_reasons[row.rejection.reason] += 1
    shipped = row.shipped_pairs
    subset.pairs["shipped"] += len(shipped)
    subset.pairs["rejected"] += len(row.pairs) - len(shipped)
    subset.tags[row.prompt.tag or "no tag"] += len(shipped)
    if row.difficulty_bin:
        subset.difficulty[row.difficulty_bin] += len(shipped)
    for pair in row.pairs:
        if pair.rejection is not None:
            subset.pair_reasons[pair.rejection.reason] += 1
        reflection = pair.reflection
        if reflection is not None and reflection.good_side is not None:
            figures.judged[reflection.good_side] += 1
            figures.agreed[reflection.good_side] += reflection.verdict == reflection.good_side
    for pair in shipped:
        if pair.likeness is not None:
            measured = figures.likeness.setdefault((row.prompt.subset, pair.likeness_by or "?"), [])
            measured.append(pair.likeness)
        if pair.reflection is not None:
            figures.annotators[pair.reflection.annotator] += 1
            words = re.findall(r"[^\W_]+", pair.reflection.text.lower())
            figures.words[len(words)] += 1
            figures.openings[" ".join(words[:_OPENING_WORDS])] += 1


def likeness_figures(figures: DatasetFigures) -> list[dict[str, Any]]:
    """Of each subset whose pairs were measured: how many, and what one in ten, half, and nine in ten are below."""
    return [
        {"subset": subset, "by": by, "pairs": len(values)}
        | {f"p{share}": round(float(np.percentile(values, share)), 4) for share in (10, 50, 90)}
        for (subset, by), values in sorted(figures.likeness.items())
    ]


def _shipped_images(row: PromptRow) -> Iterator[tuple[str, np.ndarray]]:
    wanted = {i for pair in row.shipped_pairs for i in (pair.good, pair.bad)}
    for candidate in row.candidates:
        if candidate.index in wanted and candidate.image is not None:
            try:
                yield candidate.image_sha256, decode_image(candidate.image)
            except CorruptDataError:
                continue


def difference_hash(image: np.ndarray) -> int:
    """64 bits: whether each of 8 x 8 cells is brighter than its right neighbour (dHash, Krawetz 2013)."""
    from PIL import Image

    grey = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def num_similar(hashes: list[int], near_bits: int = NEAR_BITS) -> int:
    """How many images have an earlier one whose hash differs in at most `near_bits` bits.

    Hashes that differ in so few bits share one of `near_bits` + 1 parts whole, so only those are compared.
    """
    parts = near_bits + 1
    width = -(-64 // parts)
    buckets: dict[tuple[int, int], list[int]] = {}
    found = 0
    for value in hashes:
        keys = [(i, (value >> (i * width)) & ((1 << width) - 1)) for i in range(parts)]
        near = any((value ^ other).bit_count() <= near_bits for key in keys for other in buckets.get(key, ()))
        found += near
        for key in keys:
            buckets.setdefault(key, []).append(value)
    return found


def as_json(figures: DatasetFigures) -> dict[str, object]:
    """Plain data, most frequent first where there are many."""
    return {
        "subsets": {
            name: {k: dict(sorted((str(n), c) for n, c in v.items())) for k, v in vars(of).items()}
            for name, of in figures.subsets.items()
        },
        "counts": figures.counts.as_json(),
        "agreement": {side: figures.agreement(side) for side in ("left", "right")},
        "annotators": dict(figures.annotators.most_common()),
        "reflection_words": dict(sorted(figures.words.items())),
        **({"likeness": alike} if (alike := likeness_figures(figures)) else {}),
        "openings": dict(figures.openings.most_common(_MAX_NAMED)),
        "equal_reflections": figures.equal_reflections,
        "equal_prompts": figures.equal_prompts,
        "equal_images": figures.equal_images,
        "similar_images": figures.similar_images,
        "overlaps_with_geneval": dict(figures.overlaps),
        "cost": {name: {k: v for k, v in asdict(cost).items() if v} for name, cost in figures.cost.items()},
    }
