"""What a search spent, round by round: generations, denoiser passes, VLM calls and tokens, and seconds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

from pipelines.jobs import resolve_chains
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from pipelines.stages.draft_round import DraftRound
from pipelines.stages.read_requirements import ReadRequirements
from schemas.records import Cost


@dataclass(frozen=True)
class Spent:
    """Of all searches of a run together. images: a search, so far."""

    images: int = 0
    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0


def spent_by_round(folder: RunFolder, config: SearchJobConfig) -> list[Spent]:
    """What was spent up to each round, that round included, and reading the prompts; the evaluation afterwards is not
    counted.

    Seconds are those a unit takes at the median, times the units: a kill, a model's first forward pass and whatever
    else the machine did count little.
    """
    (steps,) = resolve_chains(folder, config).values()
    seconds = seconds_by_key(folder)
    total, found = Spent(), []
    for step in steps:
        if step.link.stage not in (ReadRequirements, DraftRound):
            continue
        units = folder.committed_units(step.name, step.key)
        cost = sum((folder.read_footer(step.name, step.key, unit).cost for unit in sorted(units)), total.cost)
        taken = seconds.get(step.key)
        busy = total.seconds + (median(taken) * len(units) if taken else 0.0)
        if step.link.stage is ReadRequirements:
            total = Spent(total.images, cost, busy)
            continue
        total = Spent(total.images + config.search.width, cost, busy)
        found.append(total)
    return found


def seconds_by_key(folder: RunFolder) -> dict[str, list[float]]:
    """Seconds of every unit that a step's statistics know."""
    found: dict[str, list[float]] = defaultdict(list)
    for _, entries in folder.statistics():
        for entry in entries or ():
            found[entry["key"]].append(float(entry["seconds"]))
    return found
